"""Trains CIFAR-10's configuration for the time that is left, and measures the result."""

import contextlib
import io
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from _machine.job import Job
from _machine.steps import config_of
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.factory import source
from ddpm_jax.jobs.train import start
from ddpm_jax.metrics.frechet import frechet_distance, moments
from ddpm_jax.metrics.precision_recall import precision_recall
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.images import from_uint8, tile_images


def measure(job: Job) -> None:
    """Trains, draws 100 images and measures the run on held-back pictures."""
    reserve = 90.0 if job.small else 105.0  # for what follows the training
    compiling = job.earlier("training", f"cifar10, bfloat16, batch {8 if job.small else 128}", "compile s") or 60.0
    if job.left() < reserve + compiling + 30:
        job.note(f"skipped: {job.left():.0f} s are not enough to compile, train, draw and measure")
        return
    workdir = job.out / "cifar10"
    config = config_of(
        "cifar10",
        dtype="bfloat16",
        batch_size=(8 if job.small else 128) * jax.device_count(),
        **{"data.source": "folder", "data.path": str(_training_set(job)), "log.every": 1 if job.small else 100},
        **{"log.preview_every": 0, "checkpoint.every_minutes": 0.0, "train.num_steps": 10_000_000},
    )
    outcome = start(config, workdir, watch=_Stop(job, reserve))
    steps, seconds = int(outcome.state.step) - outcome.start_step, time.time() - job.begin
    seen = steps * config.train.batch_size
    job.add("trained", steps=steps, **{"images seen": seen, "seconds": seconds, "images/s, all told": seen / seconds})
    run = Run(workdir)
    _draw_grid(job, run)
    _measure_run(job, run)


class _Stop:
    """Interrupts a training when only the reserve is left, by a signal, which it handles from its first line on."""

    def __init__(self, job: Job, reserve: float) -> None:
        self._job, self._reserve = job, reserve
        self._timer: threading.Timer | None = None

    def __call__(self, lines: list[dict[str, Any]]) -> None:
        """Starts the timer at the first line of the log."""
        if self._timer is None:
            seconds = max(1.0, self._job.left() - self._reserve)
            self._timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
            self._timer.daemon = True
            self._timer.start()


def _training_set(job: Job) -> Path:
    """The folder to train on; for small sizes, the one with fewer pictures."""
    assert job.data is not None, "--data"
    return job.data / ("test" if job.small else "train")


def _held_back(job: Job) -> Path:
    """The folder that is not used for training."""
    assert job.data is not None, "--data"
    return job.data / ("train" if job.small else "test")


def _draw_grid(job: Job, run: Run) -> None:
    """Draws images with the averaged parameters and writes them as a grid."""
    number, steps = (4, 10) if job.small else (100, 1000)
    run.configure(sampler="ddim" if job.small else "ancestral")
    images = run.sample(number, num_steps=steps, batch_size=number)
    Image.fromarray(tile_images(images, columns=round(number**0.5))).save(job.out / "cifar10.png")
    job.note(f"cifar10.png: {number} images, {steps} steps, averaged parameters")


def _measure_run(job: Job, run: Run) -> None:
    """Adds bits/dim and loss on held-back pictures, and precision, recall and the Frechet distance on pixels."""
    number, steps = (4, 10) if job.small else (256, 1000)
    run.configure(sampler="ancestral")
    run.config.data.path = str(_held_back(job))
    run.config.data.on_device = False
    with contextlib.redirect_stdout(io.StringIO()):
        held_back = run.source()
        result = evaluate(run, ["bpd"], source=held_back, num_images=number, num_steps=steps, batch_size=number)["bpd"]
    columns = {"bits/dim": result["bits_per_dim"], "+-": result["standard_error"]}
    job.add(f"{number} held-back pictures, {steps} moves", loss=float(np.mean(result["eps_mse"])), **columns)
    number, moves = (8, 5) if job.small else (1000, 50)
    run.configure(sampler="ddim")
    run.config.data.path = str(_training_set(job))
    pictures = source(run.config)
    chosen = np.random.default_rng(0).permutation(len(pictures))[: 2 * number]
    real = from_uint8(np.stack([pictures[int(i)]["image"] for i in chosen]))
    drawn = from_uint8(run.sample(number, num_steps=moves, batch_size=min(number, 100)))
    flat, known = real[:number].reshape(number, -1), moments(_coarse(real[:number]))
    for what, images in ((f"{number} images by DDIM, {moves} moves", drawn), ("as many other pictures", real[number:])):
        precision, recall = precision_recall(flat, images.reshape(number, -1))
        distance = frechet_distance(known, moments(_coarse(images)))
        columns = {"precision": precision, "recall": recall, "Frechet distance, 8x8": distance}
        job.add(f"{what}, on pixels in [-1, 1]", **columns)
    jax.clear_caches()


def _coarse(images: np.ndarray) -> np.ndarray:
    """Images `[N, 32, 32, C]` reduced to 8x8 by means, `[N, 64 C]`: few features, for a distance of few images."""
    num, height, width, channels = images.shape
    return images.reshape(num, 8, height // 8, 8, width // 8, channels).mean((2, 4)).reshape(num, -1)

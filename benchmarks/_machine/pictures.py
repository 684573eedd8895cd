"""CIFAR-10's configuration trained for the time that is left, and what came of it."""

import contextlib
import io
import os
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from _machine.job import Job
from _machine.steps import config_of
from ddpm_jax.build import source
from ddpm_jax.evaluation import evaluate
from ddpm_jax.images import grid
from ddpm_jax.metrics.precision_recall import precision_recall
from ddpm_jax.restoring import saved_steps
from ddpm_jax.run import Run
from ddpm_jax.training import train


def measure(job: Job) -> None:
    """Trains, draws 100 images and measures the run on held-back pictures."""
    if job.data is None:
        job.note("skipped: no --data")
        return
    workdir, reserve = job.out / "cifar10", 90.0 if job.small else 105.0  # for what follows the training
    config = config_of(
        "cifar10",
        dtype="bfloat16",
        batch_size=8 if job.small else 128,
        **{"data.source": "folder", "data.path": str(_training_set(job))},
        **{"log.preview_every": 0, "checkpoint.every_minutes": 0.0, "train.num_steps": 10_000_000},
    )
    stop = threading.Timer(max(10.0, job.left() - reserve), os.kill, (os.getpid(), signal.SIGINT))
    stop.daemon, begin = True, time.monotonic()
    stop.start()
    train(config, workdir)  # which takes the signal for a wish to stop, and saves
    stop.cancel()
    seconds, (step, *_) = time.monotonic() - begin, saved_steps(workdir / "checkpoints")
    seen = step * config.train.batch_size
    job.add("trained", steps=step, **{"images seen": seen, "seconds": seconds, "images/s, all told": seen / seconds})
    run = Run(workdir)
    _draw_grid(job, run)
    _measure_run(job, run)


def _training_set(job: Job) -> Path:
    """The folder to train on: with small sizes the one of fewer pictures."""
    return job.data / ("test" if job.small else "train")


def _held_back(job: Job) -> Path:
    """The folder that is not trained on."""
    return job.data / ("train" if job.small else "test")


def _draw_grid(job: Job, run: Run) -> None:
    """Writes a grid by the averaged parameters."""
    number, steps = (4, 10) if job.small else (100, 1000)
    run.configure(sampler="ddim" if job.small else "ancestral")
    images = run.draw(number, num_steps=steps, batch_size=number)
    Image.fromarray(grid(images, columns=round(number**0.5))).save(job.out / "cifar10.png")
    job.note(f"cifar10.png: {number} images, {steps} moves, averaged parameters")


def _measure_run(job: Job, run: Run) -> None:
    """Adds bits/dim and loss on held-back pictures, and precision and recall on pixels."""
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
    real = np.stack([pictures[int(i)]["image"] for i in chosen]).reshape(2 * number, -1) / 255.0
    drawn = run.draw(number, num_steps=moves, batch_size=min(number, 100)).reshape(number, -1) / 255.0
    for what, images in ((f"{number} images by DDIM, {moves} moves", drawn), ("as many other pictures", real[number:])):
        precision, recall = precision_recall(real[:number], images)
        job.add(f"{what}, on pixels", precision=precision, recall=recall)
    jax.clear_caches()

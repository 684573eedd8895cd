"""Measures how many JPEGs like those of CelebA are read per second, and how long a training step waits for them.

  python benchmarks/input_pipeline.py
  python benchmarks/input_pipeline.py --workers=0,4,8 --batch_size=256

Writes crops of scikit-learn's two photographs as JPEGs of CelebA's size (178x218, about 8 kB) into a temporary folder,
and reads them with the crop and the scaling of `configs/celeba.py` and several numbers of worker processes: first
without training, then as the input of real train steps. On a CPU, a step has a quarter of the width and 16 images.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import _root  # noqa: F401
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_images

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.data.pipeline import batches
from ddpm_jax.data.source import Example, Source
from ddpm_jax.runtime.devices import device_mesh, global_batch, sharded
from ddpm_jax.training.loop import compiled_step, state_shapes

WORKERS = flags.DEFINE_list("workers", "0,1,2", "The numbers of worker processes to measure.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "The number of images per batch when they are only read.", lower_bound=1
)
NUM_FILES = flags.DEFINE_integer("num_files", 2000, "The number of JPEGs to write.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 8.0, "The length of each measurement in seconds.")


def write_jpegs(folder: str) -> None:
    """Writes random crops of two photographs, and prints the mean size of the files."""
    rng, photographs = np.random.default_rng(0), load_sample_images().images
    for i in range(NUM_FILES.value):
        photograph = photographs[i % 2]
        height, width = photograph.shape[:2]
        top, left = rng.integers(0, (height - 218, width - 178))
        Image.fromarray(photograph[top : top + 218, left : left + 178]).save(Path(folder, f"{i:06}.jpg"), quality=75)
    kilobytes = sum(path.stat().st_size for path in Path(folder).iterdir()) / NUM_FILES.value / 1000
    print(f"{NUM_FILES.value:,} JPEGs of 178x218, {kilobytes:.1f} kB on average", flush=True)


def configuration(folder: str, *, workers: int, batch_size: int) -> ConfigDict:
    """The configuration of CelebA, with the images of the folder."""
    config = experiment("celeba")
    config.data.source, config.data.path, config.data.num_workers = "folder", str(folder), workers
    config.train.batch_size = batch_size
    if jax.default_backend() == "cpu":
        config.model.channels = 32
    return config


def read(config: ConfigDict, source: Source) -> contextlib.AbstractContextManager[Iterator[Example]]:
    """The host's batches; leaving the context ends the workers."""
    return contextlib.closing(
        batches(source, batch_size=config.train.batch_size, seed=0, num_workers=config.data.num_workers)
    )


def images_per_second(config: ConfigDict) -> float:
    """Images per second if batches are only read."""
    with read(config, factory.source(config)) as stream:
        list(itertools.islice(stream, 8))  # workers have started, buffers are full
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < SECONDS.value:
            next(stream)
            count += 1
        return count * config.train.batch_size / (time.perf_counter() - begin)


def waiting(config: ConfigDict, mesh: Mesh) -> tuple[float, float]:
    """Seconds per train step, and the share of them, in [0, 1], in which the host waits for its batch."""
    source, model = factory.source(config), factory.network(config)
    spec = factory.train_spec(config, model, num_images=len(source))
    init = factory.state_init(config, model, spec)
    shapes = state_shapes(init)
    state = jax.jit(init, out_shardings=sharded(mesh, shapes))(jax.random.key(0))
    step = compiled_step(spec, mesh, shapes)
    with read(config, source) as stream:
        for _ in range(2):
            state, _ = jax.block_until_ready(step(state, global_batch(mesh, next(stream))))
        begin, waited, count = time.perf_counter(), 0.0, 0
        while time.perf_counter() - begin < SECONDS.value or count < 4:
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            state, _ = jax.block_until_ready(step(state, global_batch(mesh, batch)))
            count += 1
        total = time.perf_counter() - begin
    return total / count, waited / total


def main() -> None:
    """Prints a line for each number of workers."""
    mesh, small = device_mesh(), jax.default_backend() == "cpu"
    print(f"{mesh.size} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(folder)
        print("workers   images/s   step (ms)   waiting for data")
        for workers in map(int, WORKERS.value):
            rate = images_per_second(configuration(folder, workers=workers, batch_size=BATCH_SIZE.value))
            batch_size = 16 if small else BATCH_SIZE.value
            seconds, share = waiting(configuration(folder, workers=workers, batch_size=batch_size), mesh)
            print(f"{workers:>7}{rate:>11,.0f}{1000 * seconds:>12,.0f}{share:>19.2%}", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)

"""Measures the time of a train step.

  python benchmarks/train_step.py                          the digits and CIFAR-10 configurations, on these devices
  python benchmarks/train_step.py --configs=celeba --batch_size=32

Prints the median of several measurements, each of a number of whole steps after compilation, on random images without
the data pipeline. Batches have the size of the configuration; on a CPU they are reduced to 8,192 pixels, which are 8
images of CIFAR-10.
"""

import time
from collections.abc import Callable, Iterator

import _root  # noqa: F401
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.runtime.devices import device_mesh, global_batch, replicated
from ddpm_jax.training.loop import compiled_step

CONFIGS = flags.DEFINE_list("configs", "digits,cifar10", "The names of the configurations in configs/ to measure.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "The number of images per step; 0 for that of the configuration.", lower_bound=0
)
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "The type of the computation (default: the configuration's)."
)
SECONDS = flags.DEFINE_float(
    "seconds", 4.0, "The length of each of the 5 measurements in seconds; each takes at least 2 steps."
)


def default_batch_size(config: ConfigDict) -> int:
    """The configuration's batch size, on a CPU limited to 8,192 pixels, so that a step does not take too long."""
    pixels = config.data.image_size**2
    return config.train.batch_size if jax.default_backend() != "cpu" else min(config.train.batch_size, 8192 // pixels)


def windows(step: Callable[[], None]) -> Iterator[float]:
    """Yields the mean seconds per step of each of 5 windows, of which a median can be taken."""
    begin = time.perf_counter()
    step()
    count = max(2, round(SECONDS.value / max(time.perf_counter() - begin, 1e-6)))
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(count):
            step()
        yield (time.perf_counter() - begin) / count


def measure(name: str) -> None:
    """Measures the configuration of this name and prints its row."""
    config = experiment(name)
    config.train.batch_size = BATCH_SIZE.value or default_batch_size(config)
    config.model.dtype = DTYPE.value or config.model.dtype
    mesh, model = device_mesh(), factory.network(config)
    spec = factory.train_spec(config, model, num_images=1297)
    init = factory.state_init(config, model, spec)
    state = jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(0))
    train_step = compiled_step(spec, mesh, state)
    shape = (config.train.batch_size, config.data.image_size, config.data.image_size, config.data.channels)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "label": np.zeros(shape[0], np.int32),
    }
    batch, parameters = global_batch(mesh, batch), sum(x.size for x in jax.tree.leaves(state.params))

    def step() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(train_step(state, batch))

    begin = time.perf_counter()
    step()
    compile_seconds = time.perf_counter() - begin
    seconds = sorted(windows(step))
    low, middle, high = seconds[0], seconds[2], seconds[4]
    print(
        f"{name:<12}{parameters:>12,}{shape[0]:>7}{config.model.dtype:>10}{1000 * middle:>10.1f}"
        f"{1000 * low:>8.1f} -{1000 * high:>8.1f}{shape[0] / middle:>11,.0f}{compile_seconds:>11.1f}",
        flush=True,
    )


def main() -> None:
    """Prints the table."""
    devices = jax.devices()
    print(f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}")
    print("config        parameters  batch     dtype   ms/step      min - max   images/s  compile s")
    for name in CONFIGS.value:
        measure(name)


if __name__ == "__main__":
    cli.run(main, module=__name__)

"""Measures the Inception network on a CPU beside the same network in PyTorch, and its peak memory.

  python benchmarks/inception.py

Both have the same random weights, resize images of 32x32 pixels inside and compute batch after batch in turn; all
features must agree. The peak memory of 500 and of 2,000 images is that of a process of its own each. PyTorch is in
requirements/diffusers.txt.
"""

import math
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import _root  # noqa: F401
import jax
import numpy as np
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.convert.inception import inception_params, published_shapes
from ddpm_jax.errors import UserError
from ddpm_jax.metrics.resize import inception_input
from ddpm_jax.models.inception import Inception, InceptionFeatures

NUM_IMAGES = flags.DEFINE_integer("num_images", 512, "The number of images whose time is measured.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "The number of images per call.", lower_bound=1)

Features = Callable[[np.ndarray], np.ndarray]
"""A function from images `[B, 32, 32, 3]`, uint8, to features `[B, 2048]`."""


def tensors() -> dict[str, np.ndarray]:
    """Random tensors of the published names and shapes, with which features have the size of those of photographs."""
    rng = np.random.default_rng(0)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        positive = name.endswith(("bn.weight", "running_var"))
        return (scale * rng.standard_normal(shape) + positive).astype(np.float32)

    return {name: drawn(name, shape) for name, shape in published_shapes().items()}


def ours(weights: dict[str, np.ndarray]) -> Features:
    """Our network of these tensors."""
    params = jax.device_put(inception_params(weights, source="the random weights"))
    apply = Inception().apply
    compute = jax.jit(lambda params, images: apply({"params": params}, inception_input(images, "torch_fidelity")))
    return lambda images: np.asarray(InceptionFeatures(*compute(params, images)).pool)


def batches(num_images: int, batch_size: int) -> Iterator[np.ndarray]:
    """Random images, batch by batch."""
    rng = np.random.default_rng(1)
    for start in range(0, num_images, batch_size):
        yield rng.integers(0, 256, (min(batch_size, num_images - start), 32, 32, 3), np.uint8)


def peak_bytes(num_images: int, batch_size: int) -> int:
    """The peak memory of this process after our network has seen so many images, in bytes."""
    features = ours(tensors())
    for images in batches(num_images, batch_size):
        features(images)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_time() -> None:
    """Prints the images per second of both networks."""
    from _inception_torch import torch_inception

    weights = tensors()
    networks = {"ours": ours(weights), "PyTorch": torch_inception(weights)}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    whole = [images for images in batches(NUM_IMAGES.value, BATCH_SIZE.value) if len(images) == BATCH_SIZE.value]
    worst = 0.0
    for i, images in enumerate(whole[:1] + whole):  # the first batch compiles
        outputs = []
        for name, features in networks.items():
            begin = time.perf_counter()
            outputs.append(features(images))
            if i:
                seconds[name].append(time.perf_counter() - begin)
        worst = max(worst, float(np.linalg.norm(outputs[0] - outputs[1]) / np.linalg.norm(outputs[1])))
    if worst > 1e-5:
        raise UserError(f"the features differ by {worst:.1e}, relative to their norm, so their times mean nothing")
    print(f"features agree to {worst:.1e}; {BATCH_SIZE.value} images per call, {os.cpu_count()} cores")
    for name, each in seconds.items():
        print(f"{name:<8}{len(whole) * BATCH_SIZE.value / sum(each):>8.2f} images/s")
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    print(f"our time is {statistics.median(ratios):.2f} times PyTorch's (median of {len(ratios)} batches)", flush=True)


def main() -> None:
    """Prints the times and the peaks."""
    if BATCH_SIZE.value > NUM_IMAGES.value:
        raise UserError(f"--batch_size={BATCH_SIZE.value} is more than --num_images={NUM_IMAGES.value}")
    measure_time()
    context = multiprocessing.get_context("spawn")
    for num_images in (500, 2000):
        with ProcessPoolExecutor(1, mp_context=context) as process:
            peak = process.submit(peak_bytes, num_images, BATCH_SIZE.value).result()
        print(f"peak memory of {num_images:,} images: {peak / 2**20:,.0f} MiB", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)

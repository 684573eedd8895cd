"""The highest rates of the machine: products of large matrices, and a copy within its memory."""

import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

from _machine.clock import median_seconds
from _machine.job import Job


def measure(job: Job) -> None:
    """Adds the device, the versions, and the rates."""
    others = f"Python {sys.version.split()[0]}, {os.cpu_count()} CPU cores"
    job.note(f"{others}; {len(jax.devices())} devices, of which every part but the pictures uses one")
    size = 2048 if job.small else 8192
    a, b = (jax.random.normal(jax.random.key(seed), (size, size), jnp.float32) for seed in (0, 1))
    for what, dtype, precision in (
        ("product, bfloat16", jnp.bfloat16, None),
        ("product, float32", jnp.float32, None),
        ("product, float32, highest precision", jnp.float32, "highest"),
    ):
        product = jax.jit(lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision))
        seconds = _seconds(product, a.astype(dtype), b.astype(dtype), job=job)
        job.add(what, size=size, ms=1000 * seconds, **{"TFLOP/s": 2 * size**3 / seconds / 1e12})
    count = (1 if job.small else 8) * 2**26
    x = jax.random.normal(jax.random.key(2), (count,), jnp.float32)
    seconds = _seconds(jax.jit(lambda x: x + 1), x, job=job)
    job.add("copy, bytes read and written", size=count, ms=1000 * seconds, **{"GB/s": 8 * count / seconds / 1e9})


def _seconds(function: Callable[..., jax.Array], *inputs: jax.Array, job: Job) -> float:
    """Median seconds per call, where calls are submitted without waiting for results."""
    return median_seconds(lambda: function(*inputs), window=0.5 if job.small else 0.2)

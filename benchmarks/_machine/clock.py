"""Seconds per call on a device that computes while the host submits the next call."""

import statistics
import time
from collections.abc import Callable
from typing import TypeAlias

import chex
import jax

Call: TypeAlias = Callable[[], chex.ArrayTree]
"""Submits work to the device and returns its results, which the device may still be computing."""


def median_seconds(call: Call, *, window: float, windows: int = 5) -> float:
    """Median over windows of the mean seconds per call; each window ends when all its results are computed.

    Args:
      call: submits work to the device and returns arrays.
      window: approximate length of a window in seconds.
      windows: number of windows.
    """
    jax.block_until_ready(call())
    count = max(1, round(window / _seconds(call, 1)))
    return statistics.median(_seconds(call, count) for _ in range(windows))


def host_seconds(call: Call, count: int) -> float:
    """Median seconds until a call returns to the host, over `count` calls, each submitted to an idle device."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
        jax.block_until_ready(result)
    return statistics.median(seconds)


def _seconds(call: Call, count: int) -> float:
    begin, result = time.perf_counter(), None
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - begin) / count

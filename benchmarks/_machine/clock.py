"""Seconds of a call on a device that works while the host hands over the next one."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def median_seconds(call: Callable[[], Any], *, window: float, windows: int = 5) -> float:
    """Median over windows of the mean seconds of a call; the results of a window are waited for at its end.

    Args:
      call: hands work to the device and returns arrays.
      window: about how many seconds a window takes.
      windows: how many.
    """
    jax.block_until_ready(call())
    count = max(1, round(window / _seconds(call, 1)))
    return statistics.median(_seconds(call, count) for _ in range(windows))


def host_seconds(call: Callable[[], Any], count: int) -> float:
    """Median seconds until a call returns to the host, the device having nothing else to do."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
        jax.block_until_ready(result)
    return statistics.median(seconds)


def _seconds(call: Callable[[], Any], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - begin) / count

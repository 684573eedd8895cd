"""Freed memory is given back to the system, so that a process that trains for a week grows less."""

import ctypes
from collections.abc import Callable

from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Metrics


class FreedMemory:
    """A hook that returns what the C library keeps of freed memory, at multiples of a number of steps.

    Threads that write checkpoints and read images free memory in the arenas of others, of which glibc keeps more and
    more: some MiB per thousand steps. Libraries without `malloc_trim` are left as they are.

    Args:
      every: the number of steps.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Returns it if it is due after this step."""
        if self._trim and step % self._every == 0:
            self._trim(0)

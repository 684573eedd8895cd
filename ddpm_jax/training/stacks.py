"""Where a process is that takes no more steps: the stack of each of its threads, on stderr."""

import faulthandler
import time
from types import TracebackType
from typing import Self

from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Metrics

_STDERR = 2


class StacksOfAHang:
    """A hook, and a context manager, that writes the stack of every thread if no step has ended for very long.

    Very long is a multiple of the longest time between two steps of this start so far, so that a measurement or a
    preview counts as usual once there was one. The clock runs in a thread of C, and so even where Python is blocked. It
    writes once for every hang, and the run goes on.

    Args:
      times: the multiple; 0 for never.
      least: the least number of seconds without the end of a step.
      file: descriptor of the file that is written to.
    """

    def __init__(self, times: float, *, least: float = 300.0, file: int = _STDERR) -> None:
        self._times, self._least, self._file = times, least, file
        self._longest, self._last, self._armed = 0.0, 0.0, 0.0  # seconds, of a clock that starts long before

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the clock."""
        if self._times:
            faulthandler.cancel_dump_traceback_later()

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Starts the clock again; nothing is known before the second step of a start."""
        now = time.monotonic()
        before, self._last = self._last, now
        if not self._times or not before:
            return
        self._longest = max(self._longest, now - before)
        if now - self._armed >= self._least / 100:  # not at every step, because it takes 0.1 ms
            self._armed = now
            seconds = max(self._least, self._times * self._longest)
            faulthandler.dump_traceback_later(seconds, file=self._file)

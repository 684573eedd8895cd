"""Sinks: where the lines and the pictures of a run's log go.

`log_lines.LogFile`, `board.TensorBoard`, `trackers.Tracker` and `heartbeat.Heartbeat` are sinks, and so is an object of
a program that is given to `train`. Read next: `log.py`, which calls them.
"""

from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ddpm_jax.runtime.buckets import AnyPath

LogLine: TypeAlias = dict[str, Any]
"""One line of the log: "step", an integer, and the numbers of that step by name."""


class Start(NamedTuple):
    """What a sink learns at the start of a run, and again whenever the run continues from a checkpoint.

    Attributes:
      workdir: the run's directory.
      config: its configuration as nested dictionaries of plain values.
      step: the number of steps already taken: what a sink has of later steps comes again.
      rolled_back_from: the step from which the run has just returned to this one; 0 for none.
      term: the number of this start among those that wrote the run in a bucket; 0 on a disk.
    """

    workdir: AnyPath
    config: dict[str, Any]
    step: int = 0
    rolled_back_from: int = 0
    term: int = 0


@runtime_checkable
class Sink(Protocol):
    """A place to which the log of a run goes; only the first of several processes calls it.

    A class that is derived from it needs only the methods that do something. `start` and `end` are called in turn, once
    for each time that the run continues from a checkpoint. An error in a sink ends the run after its state is saved.
    """

    def start(self, start: Start) -> None:
        """Is called before the first line."""
        return

    def line(self, line: LogLine) -> None:
        """Takes a line of the log: "step", and finite numbers by name."""
        return

    def picture(self, name: str, image: np.ndarray, *, step: int) -> None:
        """Takes a picture `[H, W, C]` uint8, with C of 1 or 3: a grid of samples; `name` is "raw" or "ema"."""
        return

    def store(self) -> None:
        """Stores what may still be in memory; is called before each save of the run, and at its end."""
        return

    def end(self, error: BaseException | None) -> None:
        """Releases what `start` opened.

        Args:
          error: the exception that ended the run; None after the last step, and after a signal asked it to stop.
        """
        return

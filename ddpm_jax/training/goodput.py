"""Goodput: the share of a run's time that goes into its training steps, and where the rest goes.

Every line of the log has the seconds since the line before by phase, such as "seconds_input", so the sum over a log is
that of a run with all its starts. Read next: `log.py`, `loop.py`.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ParamSpec, TypeVar

from ddpm_jax.training.sinks import LogLine

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

PHASES = {
    "steps": "training steps",
    "input": "waiting for batches",
    "compiling": "compiling the step",
    "starting": "starts: data, network, the checkpoint that is restored",
    "lost": "what a restart or a roll-back did again",
    "saving": "saving",
    "measuring": "held-out loss and quality",
    "previews": "previews",
    "hooks": "hooks",
    "logging": "writing the log",
}
"""What a run spends its time on, each with its meaning."""
SECONDS = {phase: f"seconds_{phase}" for phase in PHASES}
"""The name of each in a line of the log."""
TIMED = frozenset({"steps_per_s", "images_per_s", "mfu", *SECONDS.values()})
"""The numbers in a line of the log that depend on how fast the run was, and not on what it computed."""
_SPEED = ("steps", "input", "saving", "hooks", "logging")


class Clock:
    """Counts the seconds of a run by phase: each second belongs to one, that which was entered last.

    The steps are computed by the devices while the host goes on. So the phase "steps" is the time for which the host
    waits for them, and "input" that for which it waits for a batch, which is short as long as the devices are busy.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase, self._since = "starting", time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of a `with` statement to a phase; a phase inside it is not counted to it."""
        outer = self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def compiling_first(self, step_fn: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """A train step whose first call, which compiles it, counts to the phase "compiling"."""
        phases = itertools.chain(["compiling"], itertools.repeat("steps"))

        def timed(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with self.phase(next(phases)):
                return step_fn(*args, **kwargs)

        return timed

    def taken(self) -> dict[str, float]:
        """Returns the seconds since the last call by phase."""
        self._enter(self._phase)
        seconds, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return seconds

    def begin(self, dropped: Sequence[LogLine]) -> None:
        """Begins again from a checkpoint: what was done since it is lost, also by starts whose lines are dropped."""
        lost = self.taken()
        self._seconds["starting"] = lost.pop("starting")
        self._seconds["lost"] = sum(lost.values()) + sum(seconds_by_phase(dropped).values())

    def _enter(self, name: str) -> None:
        """Ends a phase and begins another one."""
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        self._phase, self._since = name, now


def training_seconds(seconds: Mapping[str, float]) -> float:
    """The seconds by which a training speed is measured: without starts, compilation, measurements and previews."""
    return sum(seconds[name] for name in _SPEED)


def as_numbers(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase as numbers of a line of the log, of those phases that took a millisecond or more."""
    return {SECONDS[name]: round(value, 3) for name, value in seconds.items() if value >= 0.001}


def seconds_by_phase(lines: Sequence[LogLine]) -> dict[str, float]:
    """The sum of the seconds of lines of the log, by phase; lines of earlier versions have none."""
    return {name: sum(line.get(SECONDS[name], 0.0) for line in lines) for name in PHASES}


def seconds_of_run(lines: Sequence[LogLine], clock: Clock) -> dict[str, float]:
    """The seconds of a run by phase: those of its log, and those of this process since the last line."""
    logged = seconds_by_phase(lines)
    return {name: logged[name] + value for name, value in clock.taken().items()}


def goodput_table(seconds: Mapping[str, float]) -> list[str]:
    """Seconds by phase as lines to print, the longest first, without phases below a tenth of a second."""
    total = sum(seconds.values())
    rows = [(value, PHASES[name]) for name, value in seconds.items() if value >= 0.1]
    return [f"{value:12,.1f} s  {value / total:6.1%}  {meaning}" for value, meaning in sorted(rows, reverse=True)]

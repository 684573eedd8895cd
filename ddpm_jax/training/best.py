"""The best checkpoint of a run by a number of its log, in a work directory of its own. Read next: `checkpoint.py`."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np

from ddpm_jax.errors import writing
from ddpm_jax.runtime.devices import agreed, by_first
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.log import read_log
from ddpm_jax.training.loop import Measure, measured
from ddpm_jax.training.restoring import saved_steps
from ddpm_jax.training.sinks import Start
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.stores import claim

FOLDER = "best"
"""The folder of the best checkpoint in the directory of its run; it is a work directory itself."""


@contextlib.contextmanager
def keeping_best(measures: Sequence[Measure], name: str, start: Start) -> Iterator[Sequence[Measure]]:
    """Keeps the state at which a number was lowest, in `WORKDIR/best`; yields the measures in whose place it stands.

    A checkpoint there of a step after that of the start is removed, since the run takes that step again. In a bucket
    the folder is taken from whoever trained the run before, and may not know yet that it does no longer.

    Args:
      measures: the measures of the run, of which one gives the number.
      name: the name of the number, such as "fd"; "none" to keep nothing.
      start: the start of the run: its directory, the configuration that is stored with the checkpoint, the number of
        steps already taken, and its term.

    Raises:
      UserError: the folder cannot be written, or the run belongs to another process by now.
    """
    if name == "none":
        yield measures
        return
    with contextlib.ExitStack() as opened:
        yield [_Best(measures, name, start, opened=opened)]


class _Best:
    """A measure that gives the numbers of others and saves the state if one of them is the lowest so far."""

    def __init__(self, measures: Sequence[Measure], name: str, start: Start, *, opened: contextlib.ExitStack) -> None:
        self._measures, self._name, self._start = measures, name, start
        self._folder, self._opened = start.workdir / FOLDER, opened
        self._checkpoints: Checkpoints | None = None  # opened by the first save, so that a run without one has none
        kept = saved_steps(self._folder / "checkpoints")
        by_first(partial(self._claim, [step for step in kept if step > start.step]))
        values = {line["step"]: line.get(name, math.inf) for line in read_log(start.workdir)}
        self._lowest = min((values.get(step, math.inf) for step in kept if step <= start.step), default=math.inf)

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """The numbers of all measures, after the state is saved if its number is the lowest so far."""
        numbers = measured(self._measures, step, state)
        value = numbers.get(self._name, math.inf)
        if agreed(np.array(value < self._lowest)):
            self._lowest = value
            if self._checkpoints is None:
                self._checkpoints = self._opened.enter_context(Checkpoints(self._folder, keep=1, of=self._start.term))
            self._checkpoints.save(jax.block_until_ready(state), self._start.config)
        return numbers

    def _claim(self, without: Sequence[int]) -> None:
        """Takes the folder from earlier starts, and removes the checkpoints of these steps."""
        with writing(self._folder):
            claim(self._folder / "checkpoints", without, of=self._start.term)

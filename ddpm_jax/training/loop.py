"""The training loop: steps one after another, with log, saves and hooks. It knows objects and no configuration.

Read next: `step.py`, `saving.py`, `log.py`.
"""

import contextlib
import signal
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ddpm_jax.runtime.devices import replicated, sharded, split
from ddpm_jax.training.log import RunLog
from ddpm_jax.training.saving import Saves
from ddpm_jax.training.state import StateInit, TrainState, passed_over
from ddpm_jax.training.step import Metrics, TrainSpec, gathering, train_step


class Hook(Protocol):
    """A function that is called after every step, once what is due of the log and the saves is written.

    The arrays are on the devices, and reading one waits for the step. Those of the state are consumed by the next step,
    so a hook that keeps them copies them. An error in a hook ends the run after its state is saved.
    """

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> object:
        """Is called with the number of the step, from 1, the state after it and its metrics.

        There are no metrics, `{}`, of a step whose batch the run was told to pass over.
        """
        ...


class Measure(Protocol):
    """A function that adds numbers to lines of the log; the time that it takes does not count as training time."""

    def __call__(self, step: int, state: TrainState) -> Mapping[str, float]:
        """Returns numbers by name for the line of this step, or none; they may depend on the step and the state."""
        ...


def due(step: int, every: int, *, log_every: int) -> bool:
    """Returns whether a measure that is taken every so many steps is due at a line of the log.

    It is due at the first of the regular lines at or after each multiple of `every`.
    """
    return step % every < log_every


def train_loop(
    step_fn: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Iterator[Any],
    *,
    num_steps: int,
    log: RunLog,
    log_every: int,
    saves: Saves,
    hooks: Sequence[Hook] = (),
    measures: Sequence[Measure] = (),
    stop_asked: Callable[[int], bool] = lambda step: False,
    pass_over: Container[int] = (),
) -> TrainState:
    """Takes the steps from `state.step + 1` to `num_steps`; returns the last state.

    Args:
      step_fn: the train step, which consumes its state, from `compiled_step`.
      state: the state before the first step.
      batches: one batch for each step.
      num_steps: the number of the last step.
      log: the open `RunLog`, which gets the metrics of every step.
      log_every: number of steps between two lines of the log.
      saves: the open `Saves`; the last step is saved in any case.
      hooks: functions that are called after every step.
      measures: functions that are called for every line of the log, before it is written.
      stop_asked: function from a step to whether to stop after it, from `interruption`.
      pass_over: the steps whose batch is passed over.

    Raises:
      DivergedError: a step diverged, and the log does not tolerate it.
    """
    clock, stop = log.clock, False
    step_fn = clock.compiling_first(step_fn)
    for step in range(int(state.step) + 1, num_steps + 1):
        with clock.phase("input"):
            batch, metrics = next(batches), {}
        if step in pass_over:
            state = passed_over(state)
        else:
            state, metrics = step_fn(state, batch)
        saves.latest = state
        log.add(step, metrics)
        stop = stop_asked(step)
        save = step == num_steps or stop or saves.due(step)
        if save or step % log_every == 0:
            log.flush(partial(measured, measures, step, state))
        if save:
            with clock.phase("saving"):
                saves.save()
        with clock.phase("hooks"):
            for hook in hooks:
                hook(step, state, dict(metrics))
        if stop:
            break
    with clock.phase("saving"):
        saves.wait()
    if stop:
        log.say(f"interrupted: step {int(state.step)} is saved; the same command resumes from there")
    return state


def measured(measures: Sequence[Measure], step: int, state: TrainState) -> dict[str, float]:
    """Returns the numbers of all measures by name."""
    return {name: value for measure in measures for name, value in measure(step, state).items()}


def compiled_step(spec: TrainSpec, mesh: Mesh, shapes: TrainState, *, gathers: bool = False) -> jax.stages.Wrapped:
    """Returns `(state, batch) -> (state, metrics)`, the train step under `jax.jit` on a mesh; the state is donated.

    Args:
      spec: what the step needs besides state and batch.
      mesh: the devices, along which the batch is cut.
      shapes: a `TrainState` of arrays or of their shapes, by which the state is placed on the devices.
      gathers: whether a batch is the pair of the whole data set and indices into it, as for `gathering`.
    """
    state, whole, batch = sharded(mesh, shapes), replicated(mesh), split(mesh)
    step = partial(train_step, spec)
    if gathers:
        step, batch = gathering(step), (whole, batch)
    return jax.jit(step, in_shardings=(state, batch), out_shardings=(state, whole), donate_argnums=0)


def state_shapes(init: StateInit) -> TrainState:
    """Returns the shapes of the state: a `TrainState` whose leaves are `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(init, jax.random.key(0))


class Interruption:
    """A request to stop after the step that is being taken; called with a step, it returns whether to stop after it.

    If there are several processes, all get the same answers, whichever of them got the signal: JAX's preemption
    service, which handles SIGTERM in this case, makes them agree on the step.
    """

    def __init__(self) -> None:
        self._raised: list[int] = []

    def __call__(self, step: int) -> bool:
        """Returns whether to stop after this step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return bool(self._raised)

    def signal(self) -> signal.Signals:
        """Returns the signal that asked: SIGINT if any process got it; all processes call this, after a stop."""
        interrupted = np.array(signal.SIGINT in self._raised)
        everywhere = multihost_utils.process_allgather(interrupted) if jax.process_count() > 1 else interrupted
        return signal.SIGINT if np.any(everywhere) else signal.SIGTERM

    def add(self, number: int) -> None:
        """Takes a signal that this process got."""
        self._raised.append(number)
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Turns the first SIGINT or SIGTERM into a request to stop, so that the step can be finished and saved.

    A second signal ends the process at once.
    """
    asked, previous = Interruption(), {}

    def handler(number: int, frame: FrameType | None) -> None:
        signal.signal(number, previous[number])
        asked.add(number)

    for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread (a notebook's worker, say): signals stay as they are
            break
    try:
        yield asked
    finally:
        for number, old in previous.items():
            signal.signal(number, old)

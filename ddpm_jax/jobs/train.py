"""The training job: from a configuration and a work directory to a trained run.

The same command starts a run and resumes it, with the same result bit for bit: the state holds the step and the root
key, the batch of a step is a function of the step and the seed, and its randomness is a function of the step and the
key. An object of a program (`Given`) takes the place of what the configuration names. Read next: `preparation.py`,
`training/loop.py`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import to_json
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.jobs.checks import Given
from ddpm_jax.jobs.divergence import Attempts
from ddpm_jax.jobs.failed_starts import recorded_if_it_fails
from ddpm_jax.jobs.held_out import held_out_loss
from ddpm_jax.jobs.peak import peak_steps_per_s
from ddpm_jax.jobs.preparation import Prepared, prepared
from ddpm_jax.jobs.previews import previews
from ddpm_jax.jobs.quality import quality
from ddpm_jax.jobs.teacher import stage_lines
from ddpm_jax.jobs.unused import removed_if_unused
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import all_devices, sharded
from ddpm_jax.runtime.kept_memory import one_arena
from ddpm_jax.runtime.paths import run_folder
from ddpm_jax.runtime.shared import check_shared
from ddpm_jax.training.best import keeping_best
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.freed_memory import FreedMemory
from ddpm_jax.training.goodput import Clock, seconds_of_run
from ddpm_jax.training.heartbeat import Heartbeat
from ddpm_jax.training.inputs import Batches, BatchesFrom, Order, gathered_batches, given_batches, read_batches
from ddpm_jax.training.log import RunLog, Watch, read_log
from ddpm_jax.training.log_lines import LogFile
from ddpm_jax.training.loop import Hook, interruption, train_loop
from ddpm_jax.training.restoring import newest_checkpoint
from ddpm_jax.training.saving import Intervals, Saves
from ddpm_jax.training.sinks import Sink, Start
from ddpm_jax.training.stacks import StacksOfAHang
from ddpm_jax.training.state import TrainState, taught

_NOTHING = Given()


class Outcome(NamedTuple):
    """The result of one start of a run.

    Attributes:
      start_step: the step from which the run was resumed; 0 for a new run.
      state: the `TrainState` after the last step, or at the interruption.
      stopped: the signal that interrupted it, SIGINT or SIGTERM; None after the last step.
      seconds: the seconds of the run with all its starts by phase, as in `goodput.PHASES`.
    """

    start_step: int
    state: TrainState
    stopped: int | None
    seconds: Mapping[str, float]


def train(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    source: Source | Batches | BatchesFrom | None = None,
    network: nn.Module | None = None,
    loss: Loss | None = None,
    hooks: Sequence[Hook] = (),
    sinks: Sequence[Sink] = (),
    watch: Watch | None = None,
) -> TrainState:
    """Trains the run of a configuration in a work directory, from its newest checkpoint if there is one.

    Args:
      config: locked configuration, see `docs/configuration.md`.
      workdir: the directory for checkpoints, log and previews; it is made if absent.
      source, network, loss: objects in place of those that the configuration names, see `Given`; None for the latter.
        A source gives the size and channels of the images. A run is resumed with the same objects.
      hooks: functions `(step, state, metrics)` that are called after every step, see `Hook`.
      sinks: where the log goes besides those of `config.log.sinks`, see `Sink`.
      watch: as for `RunLog`: `plots.live_loss()` draws the loss in a notebook.

    Returns:
      The `TrainState` after the last step, or at the interruption.

    Raises:
      UserError: any mistake that the user can correct; no file is left incomplete.
    """
    return start(config, workdir, given=Given(source, network, loss), hooks=hooks, sinks=sinks, watch=watch).state


def start(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    given: Given = _NOTHING,
    hooks: Sequence[Hook] = (),
    sinks: Sequence[Sink] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Does the same as `train`, and returns the step from which the run was resumed beside the state."""
    clock, hooks, sinks = Clock(), factory.checked_hooks(hooks), factory.checked_sinks(sinks)
    workdir, stopped = run_folder(workdir), None
    one_arena()
    all_devices()  # before anything else asks JAX for them
    with contextlib.ExitStack() as opened:
        opened.enter_context(removed_if_unused(workdir))
        with recorded_if_it_fails(workdir):
            check_shared(workdir)
            ready = prepared(config, workdir, given)
            config, sinks = ready.config, [LogFile(), *factory.sinks(ready.config), *sinks]
            checkpoints = opened.enter_context(_checkpoints(config, workdir))
        heartbeat = Heartbeat(workdir, config.train.num_steps, partial(newest_checkpoint, workdir))
        opened.enter_context(heartbeat)
        begin = partial(_restored_or_new, ready, checkpoints)
        attempts, start_steps = Attempts(config, checkpoints, ready.source, begin), []
        peak = peak_steps_per_s(
            ready.undivided_step_fn, config, ready.mesh, ready.shapes, num_images=ready.num_gathered
        )
        for config, state in attempts:
            start_steps.append(int(state.step))
            begun = Start(workdir, to_json(config), start_steps[-1], attempts.rolled_back_from, checkpoints.term)
            log = _log(config, begun, [*sinks, heartbeat], clock=clock, watch=watch, peak_steps_per_s=peak)
            with log, attempts.watched():
                state, stopped = _attempt(ready._replace(config=config), state, begun, log, checkpoints, hooks)
        seconds = seconds_of_run(read_log(workdir), clock)
    return Outcome(start_steps[0], state, stopped, seconds)


def _attempt(
    ready: Prepared, state: TrainState, begun: Start, log: RunLog, checkpoints: Checkpoints, hooks: Sequence[Hook]
) -> tuple[TrainState, int | None]:
    """Takes the steps after `state` until the last one, an interruption or an error.

    Returns:
      The last state, and the signal that interrupted the run, or None.
    """
    config, mesh = ready.config, ready.mesh
    measures = [
        checkpoints.still_held,
        *held_out_loss(config, ready.model, ready.held_out, mesh, num_images=ready.num_images, loss=ready.loss),
    ]
    measures += quality(config, ready.model, ready.source, mesh, workdir=ready.workdir)
    hang = StacksOfAHang(config.log.stacks_after)
    hooks = [
        checkpoints.check_held,
        *previews(config, ready.model, log, mesh),
        *stage_lines(config, log),
        hang,
        FreedMemory(config.log.every),
        *hooks,
    ]
    saves = Saves(checkpoints, log, begun.config, every=_intervals(config))
    inputs = _inputs(config, ready.source, mesh, start_step=begun.step)
    best = keeping_best(measures, config.checkpoint.best, begun)
    in_steps = log.clock.phase("steps")
    with inputs as batches, best as measures, saves, hang, interruption() as stop_asked, in_steps:
        state = train_loop(
            ready.step_fn,
            state,
            batches,
            num_steps=config.train.num_steps,
            log=log,
            log_every=config.log.every,
            saves=saves,
            hooks=hooks,
            measures=measures,
            stop_asked=stop_asked,
            pass_over=frozenset(config.train.pass_over),
        )
        stopped = None if int(state.step) >= config.train.num_steps else stop_asked.signal()
    return state, stopped


def _inputs(
    config: ConfigDict, source: Source | Batches | BatchesFrom, mesh: Mesh, *, start_step: int
) -> AbstractContextManager[Iterator[Any]]:
    """The batches of a run, in the way that its configuration and the kind of its source ask for."""
    order = Order(config.train.batch_size, config.seed, start_step)
    if not isinstance(source, Source):
        shape = (config.data.image_size, config.data.image_size, config.data.channels)
        return given_batches(source, mesh, order, shape=shape, num_classes=config.labels.num_classes)
    if config.data.on_device:
        return gathered_batches(source, mesh, order)
    return read_batches(source, mesh, order, num_workers=config.data.num_workers)


def _log(config: ConfigDict, start: Start, sinks: Sequence[Sink], **options: Any) -> RunLog:
    """The log of a run, with the options of its configuration and further ones of `RunLog`."""
    return RunLog(
        start,
        sinks,
        num_steps=config.train.num_steps,
        batch_size=config.train.batch_size,
        learning_rate=factory.learning_rate(config),
        tolerated=config.train.max_passed_over if config.train.on_divergence == "skip" else 0,
        **options,
    )


def _intervals(config: ConfigDict) -> Intervals:
    """The intervals between two saves of a run."""
    return Intervals(config.checkpoint.every, config.checkpoint.every_minutes, config.log.every)


def _checkpoints(config: ConfigDict, workdir: AnyPath) -> Checkpoints:
    """Opens the checkpoints of a run with the options of its configuration."""
    options = config.checkpoint
    return Checkpoints(workdir, every=options.every, keep=options.keep, keep_every=options.keep_every)


def _restored_or_new(ready: Prepared, checkpoints: Checkpoints) -> TrainState:
    """Returns the state from which training resumes, on the mesh: that of the newest checkpoint, or a new one."""
    shardings = sharded(ready.mesh, ready.shapes)
    target = jax.tree.map(lambda x, cut: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), ready.shapes, shardings)
    restored = checkpoints.restore(target)
    if restored is not None:
        print(f"resuming from step {int(restored.step):,}", flush=True)
        return restored
    # A program that runs once: a CPU compiles it in a third of the time if it is not optimised.
    options = {"xla_backend_optimization_level": 0} if ready.mesh.devices.flat[0].platform == "cpu" else None
    init = jax.jit(ready.init, out_shardings=shardings, compiler_options=options)
    state = init(jax.random.key(ready.config.seed))
    return state if ready.teacher is None else jax.jit(taught, out_shardings=shardings)(state, ready.teacher)

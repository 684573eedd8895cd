"""The training job: from a configuration and a work directory to a trained run.

The same command starts a run and resumes it, with the same result bit for bit: the state holds the step and the root
key, the batch of a step is a function of the step and the seed, and its randomness is a function of the step and the
key. An object of a program (`Given`) takes the place of what the configuration names. Read next: `training/loop.py`.
"""

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import CUSTOM, check_ranges, editable, to_json
from ddpm_jax.data.checked import square_shape
from ddpm_jax.data.classes import usable_names
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.data.source import Source, image_name
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.errors import UserError, listed, one_line, shortened
from ddpm_jax.jobs.checks import Given, check_effects, check_given, check_same_run, note_doubts
from ddpm_jax.jobs.held_out import held_out_loss
from ddpm_jax.jobs.peak import peak_steps_per_s
from ddpm_jax.jobs.previews import previews
from ddpm_jax.jobs.quality import quality
from ddpm_jax.jobs.unused import removed_if_unused
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import check_divides, device_mesh, sharded
from ddpm_jax.runtime.paths import run_folder
from ddpm_jax.training.best import keeping_best
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.heartbeat import Heartbeat
from ddpm_jax.training.inputs import Batches, BatchesFrom, Order, gathered_batches, given_batches, read_batches
from ddpm_jax.training.log import DivergedError, RunLog, Watch
from ddpm_jax.training.loop import Hook, compiled_step, interruption, state_shapes, train_loop
from ddpm_jax.training.restoring import newest_checkpoint, stored_config
from ddpm_jax.training.saving import Intervals, Saves
from ddpm_jax.training.stacks import StacksOfAHang
from ddpm_jax.training.state import StateInit, TrainState

_NOTHING = Given()


class Outcome(NamedTuple):
    """The result of one start of a run.

    Attributes:
      start_step: the step from which the run was resumed; 0 for a new run.
      state: the `TrainState` after the last step, or at the interruption.
      stopped: the signal that interrupted it, SIGINT or SIGTERM; None after the last step.
    """

    start_step: int
    state: TrainState
    stopped: int | None = None


def train(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    source: Source | Batches | BatchesFrom | None = None,
    network: nn.Module | None = None,
    loss: Loss | None = None,
    hooks: Sequence[Hook] = (),
    watch: Watch | None = None,
) -> TrainState:
    """Trains the run of a configuration in a work directory, from its newest checkpoint if there is one.

    Args:
      config: locked configuration, see `docs/configuration.md`.
      workdir: the directory for checkpoints, log and previews; it is made if absent.
      source, network, loss: objects in place of those that the configuration names, see `Given`; None for the latter.
        A source gives the size and channels of the images. A run is resumed with the same objects.
      hooks: functions `(step, state, metrics)` that are called after every step, see `Hook`.
      watch: as for `RunLog`: `plots.live_loss()` draws the loss in a notebook.

    Returns:
      The `TrainState` after the last step, or at the interruption.

    Raises:
      UserError: any mistake that the user can correct; no file is left incomplete.
    """
    return start(config, workdir, given=Given(source, network, loss), hooks=hooks, watch=watch).state


def start(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    given: Given = _NOTHING,
    hooks: Sequence[Hook] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Does the same as `train`, and returns the step from which the run was resumed beside the state."""
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the configuration must be a ConfigDict, as experiment('digits') returns; got {shortened(repr(config))}"
        )
    hooks = factory.checked_hooks(hooks)
    check_ranges(config)
    config = _naming(config, given)
    workdir, mesh = run_folder(workdir), device_mesh(fsdp=config.mesh.fsdp)
    check_divides(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
    stored = stored_config(workdir)
    check_given(config, stored, given, workdir)
    model = factory.network(config, given.network)
    check_same_run(config, stored, workdir=workdir)
    check_effects(config, given, resumed=stored is not None)
    config, source, held_out = _with_class_names(config, stored, given.source)
    num_images = len(source) if isinstance(source, Source) else None
    spec = factory.train_spec(config, model, num_images=num_images, loss=given.loss)
    if config.task == "denoise":
        chain_of(config, model, num_steps=config.sample.num_steps, mesh=mesh)  # raises now, not after training
    note_doubts(config)
    init = factory.state_init(config, model, spec)
    gathers = config.data.on_device and isinstance(source, Source)
    step_fn = compiled_step(spec, mesh, state_shapes(init), gathers=gathers)
    with (
        removed_if_unused(workdir),
        _checkpoints(config, workdir) as checkpoints,
        Heartbeat(workdir, config.train.num_steps, partial(newest_checkpoint, workdir)) as heartbeat,
    ):
        state = _restored_or_new(init, jax.random.key(config.seed), checkpoints=checkpoints, mesh=mesh)
        start_step = int(state.step)
        peak = peak_steps_per_s(step_fn, config, mesh, state_shapes(init), num_images=num_images if gathers else None)
        heartbeat.resumed(start_step, peak_steps_per_s=peak)
        known = {"num_images": num_images, "loss": given.loss}
        measures = [*held_out_loss(config, model, held_out, mesh, **known)]
        measures += quality(config, model, source, mesh, workdir=workdir)
        log = _log(config, workdir, start_step, watch)
        log.listeners.append(heartbeat.line)
        hang = StacksOfAHang(config.log.stacks_after)
        hooks = [*previews(config, model, log, mesh), hang, *hooks]
        saves = Saves(checkpoints, log, to_json(config), every=_intervals(config))
        inputs = _inputs(config, source, mesh, start_step=start_step)
        explained = _explained(config, checkpoints, source)
        best = keeping_best(measures, config.checkpoint.best, workdir, to_json(config), start_step=start_step)
        options: dict[str, Any] = {"num_steps": config.train.num_steps, "log_every": config.log.every, "hooks": hooks}
        with log, inputs as batches, explained, best as measures, saves, hang, interruption() as stop_asked:
            options |= {"measures": measures, "stop_asked": stop_asked}
            state = train_loop(step_fn, state, batches, log=log, saves=saves, **options)
            stopped = None if int(state.step) >= config.train.num_steps else stop_asked.signal()
    return Outcome(start_step, state, stopped)


def _naming(config: ConfigDict, given: Given) -> ConfigDict:
    """A copy of the configuration that names and describes the given objects, with the size of the source's images.

    Raises:
      UserError: the object is not a source, or its images are not square.
    """
    config = editable(config)
    if given.source is not None:
        factory.check_input(given.source)
    config.given.update({name: factory.described(value) for name, value in given._asdict().items()})
    if given.network is not None:
        config.network = CUSTOM
    if given.loss is not None:
        config.loss.kind = CUSTOM
    if given.source is not None:
        config.data.source = CUSTOM
    if isinstance(given.source, Source):
        config.data.image_size, _, config.data.channels = square_shape(given.source)
    return config


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


def _log(config: ConfigDict, workdir: Path, start_step: int, watch: Watch | None) -> RunLog:
    """The log of a run, with the options of its configuration."""
    return RunLog(
        workdir,
        start_step=start_step,
        num_steps=config.train.num_steps,
        batch_size=config.train.batch_size,
        learning_rate=factory.learning_rate(config),
        watch=watch,
    )


def _intervals(config: ConfigDict) -> Intervals:
    """The intervals between two saves of a run."""
    return Intervals(config.checkpoint.every, config.checkpoint.every_minutes, config.log.every)


def _checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
    """Opens the checkpoints of a run with the options of its configuration."""
    options = config.checkpoint
    return Checkpoints(workdir, every=options.every, keep=options.keep, keep_every=options.keep_every)


def _with_class_names(
    config: ConfigDict, stored: dict[str, Any] | None, given: Source | Batches | BatchesFrom | None
) -> tuple[ConfigDict, Source | Batches | BatchesFrom, Source | None]:
    """Returns the configuration with class names, those of the run or else of the data; the data; what is held out.

    Batches have no class names, and none are held out.
    """
    config = copy.deepcopy(config)
    labels = config.labels
    if stored and not labels.names:
        labels.names = tuple(stored["labels"].get("names", ()))
    if given is not None and not isinstance(given, Source):
        return config, given, None
    source, held_out = factory.parts(config, given)
    if labels.num_classes and not labels.names:
        labels.names = usable_names(source, labels.num_classes)
        if stored and labels.names:
            print(f"note: the run had no class names; it uses those of the data from now on: {listed(labels.names)}",
                  flush=True)  # fmt: skip
    return config, source, held_out


def _restored_or_new(init: StateInit, key: jax.Array, *, checkpoints: Checkpoints, mesh: Mesh) -> TrainState:
    """Returns the state from which training resumes, on the mesh: that of the newest checkpoint, or a new one."""
    shapes = state_shapes(init)
    shardings = sharded(mesh, shapes)
    target = jax.tree.map(lambda x, cut: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), shapes, shardings)
    restored = checkpoints.restore(target)
    if restored is not None:
        print(f"resuming from step {int(restored.step):,}", flush=True)
        return restored
    return jax.jit(init, out_shardings=shardings)(key)


@contextlib.contextmanager
def _explained(config: ConfigDict, checkpoints: Checkpoints, source: Source | Batches | BatchesFrom) -> Iterator[None]:
    """Turns a `DivergedError` into a `UserError` that names the step, its images and the last good checkpoint.

    The images of given batches are not known.
    """
    try:
        yield
    except DivergedError as error:
        order = {"batch_size": config.train.batch_size, "seed": config.seed, "step": error.step - 1}
        names = []
        if isinstance(source, Source):
            indices = batch_indices(len(source), **order)
            names = [one_line(image_name(source, int(index))) for index in indices[:8]] + ["..."] * (len(indices) > 8)
        images = f", on images {', '.join(names)} of the data" if names else ""
        last = checkpoints.last_saved()
        kept = "there is no checkpoint yet" if last is None else f"the last good checkpoint is step {last}"
        table = f"give its table of classes a row for the null label {config.labels.num_classes}, or "
        raise UserError(
            f"{error}{images}; {kept}; {table if config.network == CUSTOM and config.labels.dropout else ''}"
            f"{'correct the loss of your program, ' if config.loss.kind == CUSTOM else ''}"
            "lower config.optim.learning_rate, set config.optim.grad_clip=1 or use config.model.dtype=float32, "
            "and start again with the same command"
        ) from error

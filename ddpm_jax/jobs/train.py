"""The training job: it takes steps and writes log, previews and checkpoints, until the last step or an interruption.

The same command starts a run and resumes it, with the same result bit for bit: the state holds the step and the root
key, the batch of a step is a function of the step and the seed, and its randomness is a function of the step and the
key. Read next: `training/step.py`, `training/checkpoint.py`.
"""

import contextlib
import copy
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import check_ranges, check_resumable
from ddpm_jax.data.classes import usable_names
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError, listed, shortened
from ddpm_jax.runs.run import chain_of
from ddpm_jax.runtime.devices import check_divides, device_mesh, replicated, sharded, split
from ddpm_jax.runtime.images import grid, to_uint8
from ddpm_jax.runtime.paths import run_folder
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.inputs import feed
from ddpm_jax.training.log import DivergedError, RunLog, Watch
from ddpm_jax.training.restoring import stored_config
from ddpm_jax.training.saving import Saves
from ddpm_jax.training.state import StateInit, TrainState, initial_state
from ddpm_jax.training.step import Recipe, gathering, train_step

_PREVIEW_SEED = 0


class Outcome(NamedTuple):
    """The result of one start of a run.

    Attributes:
      start_step: the step from which the run was resumed; 0 for a new run.
      state: the `TrainState` after the last step, or at the interruption.
    """

    start_step: int
    state: TrainState


def train(config: ConfigDict, workdir: str | os.PathLike[str], *, watch: Watch | None = None) -> TrainState:
    """Trains the run of a configuration in a work directory, from its newest checkpoint if there is one.

    Args:
      config: locked configuration, see `configs/base.py`.
      workdir: the directory for checkpoints, log and previews; it is made if absent.
      watch: as for `RunLog`: `plots.live_loss()` draws the loss in a notebook.

    Returns:
      The `TrainState` after the last step, or at the interruption.

    Raises:
      UserError: any mistake that the user can correct; no file is left incomplete.
    """
    return start(config, workdir, watch=watch).state


def start(config: ConfigDict, workdir: str | os.PathLike[str], *, watch: Watch | None = None) -> Outcome:
    """Does the same as `train`, and returns the step from which the run was resumed beside the state."""
    if not isinstance(config, ConfigDict):
        raise UserError(f"the configuration must be a ConfigDict, as experiment('digits') returns; got {config!r}")
    check_ranges(config)
    workdir, mesh = run_folder(workdir), device_mesh(fsdp=config.mesh.fsdp)
    check_divides(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
    model, stored = factory.network(config), stored_config(workdir)
    _check_same_run(config, stored, workdir=workdir)
    config, source = _with_class_names(config, stored)
    recipe = factory.recipe(config, model, num_images=len(source))
    if config.task == "denoise":
        chain_of(config, model, num_steps=config.sample.num_steps, mesh=mesh)  # raises now, not after training
    _note_doubts(config)
    init = initial(config, model, recipe)
    step_fn = compiled_step(recipe, mesh, state_shapes(init), gathers=config.data.on_device)
    with _checkpoints(config, workdir) as checkpoints:
        state = _restored_or_new(init, jax.random.key(config.seed), checkpoints=checkpoints, mesh=mesh)
        start_step = int(state.step)
        log = RunLog(
            workdir,
            start_step=start_step,
            num_steps=config.train.num_steps,
            batch_size=config.train.batch_size,
            learning_rate=factory.learning_rate(config),
            watch=watch,
        )
        draws = config.task == "denoise" and config.log.preview_every
        preview = Previews(config, model, log, mesh) if draws else None
        fed, explained = feed(config, source, mesh, start_step=start_step), _explained(config, checkpoints, len(source))
        saves = Saves(checkpoints, log, config)
        with log, fed as stream, explained, saves, _interruption() as stop_asked:
            for step in range(start_step + 1, config.train.num_steps + 1):
                state, metrics = step_fn(state, next(stream))
                saves.latest = state
                log.add(step, metrics)
                interrupted = stop_asked(step)
                save = step == config.train.num_steps or interrupted or saves.due(step)
                if save or _due(step, config.log.every):
                    log.flush()
                if save:
                    saves.save()
                if interrupted:
                    checkpoints.wait()
                    log.say(f"interrupted: step {step} is saved; the same command resumes from there")
                    break
                if preview and _due(step, config.log.preview_every):
                    log.flush()  # if the numbers are not finite, its error explains more than a preview's note
                    preview(state)
        checkpoints.wait()
    return Outcome(start_step, state)


def _checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
    """Opens the checkpoints of a run with the options of its configuration."""
    options = config.checkpoint
    return Checkpoints(workdir, every=options.every, keep=options.keep, keep_every=options.keep_every)


def initial(config: ConfigDict, model: nn.Module, recipe: Recipe) -> StateInit:
    """Returns a function from the root key to the `TrainState` at step 0."""
    params = factory.initial_params(config, model)
    return partial(initial_state, init_params=params, optimizer=recipe.optimizer, times=recipe.times)


def state_shapes(init: StateInit) -> TrainState:
    """Returns the shapes of the state: a `TrainState` whose leaves are `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(init, jax.random.key(0))


def compiled_step(recipe: Recipe, mesh: Mesh, shapes: TrainState, *, gathers: bool = False) -> jax.stages.Wrapped:
    """Returns `(state, batch) -> (state, metrics)`, the train step under `jax.jit` on a mesh; the state is donated.

    Args:
      recipe: what the step needs besides state and batch.
      mesh: the devices, along which the batch is cut.
      shapes: a `TrainState` of arrays or of their shapes, by which the state is placed on the devices.
      gathers: whether a batch is the pair of the whole data set and indices into it, as for `gathering`.
    """
    state, whole, batch = sharded(mesh, shapes), replicated(mesh), split(mesh)
    step = partial(train_step, recipe)
    if gathers:
        step, batch = gathering(step), (whole, batch)
    return jax.jit(step, in_shardings=(state, batch), out_shardings=(state, whole), donate_argnums=0)


class Previews:
    """Draws grids of samples during training, from the parameters and from their average, with a chain of few steps.

    Args:
      config: configuration of the run.
      model: its network.
      log: its `RunLog`, which gets the grids.
      mesh: the devices.
    """

    def __init__(self, config: ConfigDict, model: nn.Module, log: RunLog, mesh: Mesh) -> None:
        self._log, self._indices, self._mesh = log, np.arange(config.log.preview_images), mesh
        steps = min(config.log.preview_steps, config.diffusion.num_timesteps)
        self._chain = chain_of(config, model, num_steps=steps, mesh=mesh)

    def __call__(self, state: TrainState) -> None:
        """Draws and writes both grids for the state's step."""
        for name, params in (("raw", state.params), ("ema", state.ema_params)):
            params = jax.device_put(params, replicated(self._mesh))
            images = self._chain(params, jax.random.key(_PREVIEW_SEED), indices=self._indices)[-1]
            if not np.isfinite(images).all():
                self._log.say(
                    f"note: no preview with the {name} parameters: the images of its short chain are not finite"
                )
                continue
            self._log.picture(name, grid(to_uint8(images), columns=self._chain.columns), step=int(state.step))
        self._log.restart_clock()


def _with_class_names(config: ConfigDict, stored: dict[str, Any] | None) -> tuple[ConfigDict, Source]:
    """Returns the configuration with class names, those of the run or else of the data, and the data."""
    config = copy.deepcopy(config)
    labels = config.labels
    if stored and not labels.names:
        labels.names = tuple(stored["labels"].get("names", ()))
    source = factory.source(config)
    if labels.num_classes and not labels.names:
        labels.names = usable_names(source, labels.num_classes)
        if stored and labels.names:
            print(f"note: the run had no class names; it uses those of the data from now on: {listed(labels.names)}",
                  flush=True)  # fmt: skip
    return config, source


def _check_same_run(config: ConfigDict, stored: dict[str, Any] | None, *, workdir: Path) -> None:
    """Refuses a directory that holds another run; prints which keys that may change have changed."""
    if stored is None:
        return
    for key, (old, new) in check_resumable(stored, config, workdir=workdir).items():
        print(f"note: {key} was {_short(old)} in this run so far and is {_short(new)} from now on", flush=True)


def _short(value: object) -> str:
    """Returns a value of a configuration as a short text."""
    return shortened(repr(value), 80)


def _note_doubts(config: ConfigDict) -> None:
    """Prints a note on settings that are allowed but seldom intended."""
    warmup, last, left = config.optim.warmup_steps, config.train.num_steps, factory.noise_schedule(config).alpha_bar[-1]
    if warmup >= last:
        print(
            f"note: optim.warmup_steps={warmup} is not below train.num_steps={last}, so the learning rate never "
            "reaches its peak",
            flush=True,
        )
    if left > 0.01:
        print(
            f"note: {left:.0%} of an image's power remains at t = T, but sampling starts from pure noise: raise "
            "diffusion.num_timesteps or diffusion.beta_end",
            flush=True,
        )


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
def _explained(config: ConfigDict, checkpoints: Checkpoints, num_images: int) -> Iterator[None]:
    """Turns a `DivergedError` into a `UserError` that names the step, its images and the last good checkpoint."""
    try:
        yield
    except DivergedError as error:
        order = {"batch_size": config.train.batch_size, "seed": config.seed, "step": error.step - 1}
        images = ", ".join(str(index) for index in batch_indices(num_images, **order)[:8])
        last = checkpoints.last_saved()
        kept = "there is no checkpoint yet" if last is None else f"the last good checkpoint is step {last}"
        raise UserError(
            f"{error}, on images {images}{', ...' if config.train.batch_size > 8 else ''} of the data; {kept}; "
            "lower --config.optim.learning_rate, set --config.optim.grad_clip=1 or use --config.model.dtype=float32, "
            "and start again with the same command"
        ) from error


def _due(step: int, every: int) -> bool:
    """Returns whether a step is a multiple of `every`; never if `every` is 0."""
    return bool(every) and step % every == 0


@contextlib.contextmanager
def _interruption() -> Iterator[Callable[[int], bool]]:
    """Turns the first SIGINT or SIGTERM into a request to stop, so that the step can be finished and saved.

    A second signal ends the process at once. Yields a function of the step that returns whether to stop after it. If
    there are several processes, all stop after the same step, whichever of them got the signal: JAX's preemption
    service, which handles SIGTERM in this case, makes them agree on it.
    """
    raised, previous = [], {}

    def handler(number: int, frame: FrameType | None) -> None:
        raised.append(number)
        signal.signal(number, previous[number])
        if several:
            signal.raise_signal(signal.SIGTERM)

    several = jax.process_count() > 1
    for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread (a notebook's worker, say): signals stay as they are
            break
    try:
        yield multihost_utils.reached_preemption_sync_point if several else lambda step: bool(raised)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)

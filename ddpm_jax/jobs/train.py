"""The training job: data in, steps, log, previews and checkpoints out, until the last step or an interruption.

The same command starts a run and resumes it, bit for bit: the state holds the step and the root key, and the batch
and the randomness of a step are functions of the two. Read next: `training/step.py`, `training/checkpoint.py`.
"""

import contextlib
import copy
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
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
from ddpm_jax.training.log import DivergedError, RunLog
from ddpm_jax.training.restoring import stored_config
from ddpm_jax.training.saving import Saves
from ddpm_jax.training.state import TrainState, initial_state
from ddpm_jax.training.step import gathering, train_step

_PREVIEW_SEED = 0


class Outcome(NamedTuple):
    """What a start of a run came to.

    Attributes:
      start_step: the step that it resumed from; 0 for a new run.
      state: the final `TrainState`, or that of the interruption.
    """

    start_step: int
    state: TrainState


def train(config: ConfigDict, workdir: str | os.PathLike, *, watch: Callable | None = None) -> TrainState:
    """Trains, or resumes training, the run of a configuration in a work directory.

    Args:
      config: locked configuration, see `configs/base.py`.
      workdir: where checkpoints, log and previews go; made if absent.
      watch: as for `RunLog`: `plots.live_loss()` draws the loss in a notebook.

    Returns:
      The final `TrainState`, or that of the interruption.

    Raises:
      UserError: anything a person can mend; nothing is left half written.
    """
    return start(config, workdir, watch=watch).state


def start(config: ConfigDict, workdir: str | os.PathLike, *, watch: Callable | None = None) -> Outcome:
    """As `train`, but returns the step from which it was resumed beside the state."""
    check_ranges(config)
    workdir, mesh = run_folder(workdir), device_mesh(fsdp=config.mesh.fsdp)
    check_divides(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
    model, stored = factory.network(config), stored_config(workdir)
    _check_same_run(config, stored, workdir=workdir)
    config, source = _with_class_names(config, stored)
    recipe = factory.recipe(config, model, num_images=len(source))
    if config.task == "denoise":
        chain_of(config, model, num_steps=config.sample.num_steps, mesh=mesh)  # sampling is sure to work in the end
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
                    log.flush()  # which says it better than a preview if the numbers are lost
                    preview(state)
        checkpoints.wait()
    return Outcome(start_step, state)


def _checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
    """The checkpoints of a run, kept as its configuration says."""
    options = config.checkpoint
    return Checkpoints(workdir, every=options.every, keep=options.keep, keep_every=options.keep_every)


def initial(config, model, recipe):
    """A function from the root key to the `TrainState` at step 0."""
    params = factory.initial_params(config, model)
    return partial(initial_state, init_params=params, optimizer=recipe.optimizer, times=recipe.times)


def state_shapes(init):
    """The state's tree of `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(init, jax.random.key(0))


def compiled_step(recipe, mesh, shapes, *, gathers=False):
    """The train step jit-compiled for a mesh and a state of these shapes: state donated, batch cut along the mesh.

    With `gathers` a batch is the whole data set and indices into it.
    """
    state, whole, batch = sharded(mesh, shapes), replicated(mesh), split(mesh)
    step = partial(train_step, recipe)
    if gathers:
        step, batch = gathering(step), (whole, batch)
    return jax.jit(step, in_shardings=(state, batch), out_shardings=(state, whole), donate_argnums=0)


class Previews:
    """Grids of samples while a run trains: from the trained parameters and from their average, by a short chain."""

    def __init__(self, config, model, log, mesh):
        self._log, self._indices, self._mesh = log, np.arange(config.log.preview_images), mesh
        steps = min(config.log.preview_steps, config.diffusion.num_timesteps)
        self._chain = chain_of(config, model, num_steps=steps, mesh=mesh)

    def __call__(self, state):
        """Draws and writes both grids for the state's step."""
        for name, params in (("raw", state.params), ("ema", state.ema_params)):
            params = jax.device_put(params, replicated(self._mesh))
            images = self._chain(params, jax.random.key(_PREVIEW_SEED), indices=self._indices)[-1]
            if not np.isfinite(images).all():
                self._log.say(f"note: no preview by the {name} parameters: its short chain left the finite numbers")
                continue
            self._log.picture(name, grid(to_uint8(images), columns=self._chain.columns), step=int(state.step))
        self._log.restart_clock()


def _with_class_names(config: ConfigDict, stored: dict | None) -> tuple[ConfigDict, Source]:
    """The configuration with the names of its classes, the run's own or else those of the data; and the data."""
    config = copy.deepcopy(config)
    labels = config.labels
    if stored and not labels.names:
        labels.names = tuple(stored["labels"].get("names", ()))
    source = factory.source(config)
    if labels.num_classes and not labels.names:
        labels.names = usable_names(source, labels.num_classes)
        if stored and labels.names:
            print(f"note: the run had no class names; it keeps those of the data from here on: {listed(labels.names)}",
                  flush=True)  # fmt: skip
    return config, source


def _check_same_run(config: ConfigDict, stored: dict | None, *, workdir: Path) -> None:
    """Refuses a directory that holds another run; says which harmless keys have changed."""
    if stored is None:
        return
    for key, (old, new) in check_resumable(stored, config, workdir=workdir).items():
        print(f"note: {key} was {_short(old)} in this run so far and is {_short(new)} from here on", flush=True)


def _short(value: object) -> str:
    """A value of a configuration in a line."""
    return shortened(repr(value), 80)


def _note_doubts(config):
    """Says of settings that make sense, but seldom what was meant."""
    warmup, last, left = config.optim.warmup_steps, config.train.num_steps, factory.noise_schedule(config).alpha_bar[-1]
    if warmup >= last:
        print(
            f"note: optim.warmup_steps={warmup} of train.num_steps={last}: the learning rate is never reached",
            flush=True,
        )
    if left > 0.01:
        print(
            f"note: {left:.0%} of an image's power is left at t = T, where sampling starts from noise alone: raise "
            "diffusion.num_timesteps or diffusion.beta_end",
            flush=True,
        )


def _restored_or_new(init, key, *, checkpoints, mesh):
    """The state to go on from, on the mesh: that of the newest checkpoint, or a new one."""
    shapes = state_shapes(init)
    shardings = sharded(mesh, shapes)
    target = jax.tree.map(lambda x, cut: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), shapes, shardings)
    restored = checkpoints.restore(target)
    if restored is not None:
        print(f"resuming from step {int(restored.step):,}", flush=True)
        return restored
    return jax.jit(init, out_shardings=shardings)(key)


@contextlib.contextmanager
def _explained(config, checkpoints, num_images):
    """Tells of a run that leaves the finite numbers at which step, on which images, and what is left of it."""
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


def _due(step, every):
    """Whether something done every so many steps is done at this one; never where `every` is 0."""
    return bool(every) and step % every == 0


@contextlib.contextmanager
def _interruption():
    """Turns the first SIGINT or SIGTERM into a wish to stop, so that the step can be finished and saved.

    A second signal kills. Yields a function of the step: whether to stop after it. Of many processes all stop after the
    same one, whichever got the signal: JAX's own preemption service, which has SIGTERM then, agrees on it.
    """
    raised, previous = [], {}

    def handler(number, frame):
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

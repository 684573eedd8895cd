"""What a training run is made of: from its configuration and the objects of a program, checked before it writes."""

import copy
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import CUSTOM, check_ranges, denoises, editable
from ddpm_jax.data.checked import square_shape
from ddpm_jax.data.classes import usable_names
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.errors import UserError, listed, shortened
from ddpm_jax.jobs import costs
from ddpm_jax.jobs.checks import Given, check_effects, check_given, check_repeatable, check_same_run, note_doubts
from ddpm_jax.jobs.teacher import with_teacher
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import check_divides, device_mesh
from ddpm_jax.training.inputs import Batches, BatchesFrom
from ddpm_jax.training.loop import compiled_step, state_shapes
from ddpm_jax.training.restoring import stored_config
from ddpm_jax.training.state import StateInit, TrainState


class Prepared(NamedTuple):
    """A run that may start.

    Attributes:
      config: its configuration, which names and describes the objects of a program.
      workdir: its directory, which need not exist yet.
      mesh: the devices.
      model: the network.
      source: the images to train on, or the batches of a program.
      held_out: the images that are held out, or None.
      loss: the loss of a program, or None.
      init: function from a key to the first state.
      teacher: the parameters from which a student starts, or None.
      shapes: the shapes of the state.
      step_fn: the compiled train step.
      undivided_step_fn: the same without accumulation, whose arithmetic XLA can count; it is not run.
    """

    config: ConfigDict
    workdir: AnyPath
    mesh: Mesh
    model: nn.Module
    source: Source | Batches | BatchesFrom
    held_out: Source | None
    loss: Loss | None
    init: StateInit
    teacher: chex.ArrayTree | None
    shapes: TrainState
    step_fn: jax.stages.Wrapped
    undivided_step_fn: jax.stages.Wrapped

    @property
    def num_images(self) -> int | None:
        """The number of images to train on; None for batches of a program."""
        return len(self.source) if isinstance(self.source, Source) else None

    @property
    def num_gathered(self) -> int | None:
        """The number of images on the devices, from which the step gathers its batch, or None."""
        return self.num_images if self.config.data.on_device else None


def prepared(config: ConfigDict, workdir: AnyPath, given: Given) -> Prepared:
    """Makes and checks all that a run needs, for the configuration that is stored in its work directory, if any.

    Raises:
      UserError: any mistake that the user can correct.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the configuration must be a ConfigDict, as experiment('digits') returns; got {shortened(repr(config))}"
        )
    check_ranges(config)
    config = _naming(config, given)
    mesh = device_mesh(fsdp=config.mesh.fsdp)
    check_divides(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
    stored = stored_config(workdir)
    config = _passing_over(config, stored)
    check_given(config, stored, given, workdir)
    model = factory.network(config, given.network)
    config, teacher = with_teacher(config, stored, given.network)
    check_same_run(config, stored, workdir=workdir)
    check_effects(config, given, resumed=stored is not None)
    check_repeatable(config, given)
    config, source, held_out = _with_class_names(config, stored, given.source)
    num_images = len(source) if isinstance(source, Source) else None
    spec = factory.train_spec(config, model, num_images=num_images, loss=given.loss)
    if denoises(config):
        chain_of(config, model, num_steps=config.sample.num_steps, mesh=mesh)  # raises now, not after training
    note_doubts(config)
    init = factory.state_init(config, model, spec)
    shapes, gathers = state_shapes(init), config.data.on_device and num_images is not None
    step_fn = undivided = compiled_step(spec, mesh, shapes, gathers=gathers)
    if spec.accumulation > 1:
        undivided = compiled_step(costs.undivided(spec), mesh, shapes, gathers=gathers)
    return Prepared(
        config, workdir, mesh, model, source, held_out, given.loss, init, teacher, shapes, step_fn, undivided
    )


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


def _passing_over(config: ConfigDict, stored: dict[str, Any] | None) -> ConfigDict:
    """A copy of the configuration that also passes over the batches that the stored run passes over."""
    config, known = editable(config), stored["train"].get("pass_over", ()) if stored else ()
    config.train.pass_over = tuple(sorted({*config.train.pass_over, *known}))
    return config


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

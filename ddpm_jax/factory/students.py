"""Students from a configuration: what they learn after so many steps, and the loss by which they learn it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.config import distils, takes_steps
from ddpm_jax.diffusion import distillation, mean_flow
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.errors import UserError
from ddpm_jax.factory.chains import noise_schedule, sampling_transitions
from ddpm_jax.factory.lookup import named
from ddpm_jax.factory.models import denoiser_of, guided_by_label, shown_labels
from ddpm_jax.training.state import Teacher
from ddpm_jax.training.step import Examples, Objective


class Method(NamedTuple):
    """A way to teach a student.

    Attributes:
      curriculum: function from the configuration to its `Curriculum`.
      loss: function from both to the `TaughtLoss`.
      chain: the settings of `config.sample` that its chain must have.
    """

    curriculum: Callable[[ConfigDict], distillation.Curriculum]
    loss: Callable[[ConfigDict, Any], distillation.TaughtLoss]
    chain: Mapping[str, Any]


def _shortening(config: ConfigDict) -> distillation.Shortening:
    """The stages of progressive distillation, from `first_steps` to the steps of the configured chain.

    Raises:
      UserError: the first number cannot be divided to the last, or the grid of times not at all.
    """
    first, last, factor = config.distil.first_steps, config.sample.num_steps, config.distil.teacher_steps
    counts = [factor * first]
    while counts[-1] > last > 0 and not counts[-1] % factor:
        counts.append(counts[-1] // factor)
    if counts[-1] != last or len(counts) < 2:
        raise UserError(
            f"config.distil.first_steps={first} is not config.sample.num_steps={last}, the steps of the last stage, "
            f"times a power of config.distil.teacher_steps={factor}: set them to such numbers, for example "
            f"{factor * (last or 1)} and {last or 1}"
        )
    chains = tuple(sampling_transitions(config, count) for count in counts)
    try:
        return distillation.Shortening(chains, config.distil.stage_steps, factor)
    except ValueError as error:
        raise UserError(
            f"config.sample.grid={config.sample.grid} has other times for fewer steps ({error}): choose trailing, or "
            "numbers of steps that divide config.diffusion.num_timesteps"
        ) from error


def _narrowing(config: ConfigDict) -> distillation.Narrowing:
    """The stages of easy consistency tuning."""
    return distillation.Narrowing(noise_schedule(config), config.distil.stage_steps)


DISTANCES = {"squared": 0.0, "huber": distillation.HUBER}
"""The constant c of the distance from the teacher, by its name."""
_PLAIN = {"corrector_steps": 0, "churn": 0.0, "restarts": 0}
METHODS: dict[str, Method] = {
    "progressive": Method(
        curriculum=_shortening,
        loss=lambda config, lessons: distillation.l_progressive(
            lessons.within, huber=named(DISTANCES, config.distil.distance, "distil.distance")
        ),
        chain={"sampler": "ddim", "eta": 0.0, "clip_x_0": False, **_PLAIN},
    ),
    "mean_flow": Method(
        curriculum=lambda config: mean_flow.Spans(noise_schedule(config)),
        loss=lambda config, lessons: mean_flow.l_mean_flow(
            lessons.schedule, guidance_scale=config.distil.guidance_scale
        ),
        chain={"sampler": "mean_flow", "clip_x_0": False, **_PLAIN},
    ),
    "consistency": Method(
        curriculum=_narrowing,
        loss=lambda config, lessons: distillation.l_consistency(),
        chain={"sampler": "consistency", **_PLAIN},
    ),
}


def curriculum(config: ConfigDict) -> distillation.Curriculum | None:
    """What the student of a configuration learns after so many steps; None for all other runs.

    Raises:
      UserError: its chain is not one that it could learn, or as `_shortening`.
    """
    if not distils(config):
        return None
    _check_student(config)
    return named(METHODS, config.distil.method, "distil.method").curriculum(config)


def check_teachable(config: ConfigDict) -> None:
    """Raises a `UserError` if the network of a configuration, of a teacher or of a student, cannot be distilled."""
    if config.diffusion.target == "eps":
        raise UserError(
            "a network with config.diffusion.target=eps cannot be distilled: of pure noise, with which a chain of one "
            "step begins, eps says nothing of the image; train a teacher with the target v, x_0, flow or edm"
        )
    if config.diffusion.learned_variance:
        raise UserError(
            "a network with config.diffusion.learned_variance=True cannot be distilled, since a student's steps are "
            "deterministic: train a teacher without it"
        )


def _check_student(config: ConfigDict) -> None:
    """Raises a `UserError` if a student cannot learn the configured chain, or not with the configured network."""
    check_teachable(config)
    if config.distil.guidance_scale != 1 and not config.labels.dropout:
        raise UserError(
            f"config.distil.guidance_scale={config.distil.guidance_scale:g} needs a teacher trained both with and "
            "without the class: set config.labels.num_classes and config.labels.dropout as there, or leave it at 1"
        )
    if takes_steps(config) and not config.distil.guidance_scale:
        raise UserError(
            "config.distil.guidance_scale=0 leaves nothing of the images to learn from with "
            "config.distil.method=mean_flow: leave it at 1, and draw with sample.guidance_scale=0"
        )
    if takes_steps(config) and config.network != "configured":
        raise UserError("config.distil.method=mean_flow needs the network of config.model, which has an input more")
    for key, value in named(METHODS, config.distil.method, "distil.method").chain.items():
        if config.sample[key] != value:
            raise UserError(
                f"config.sample.{key}={config.sample[key]} is no part of the chain that a student of "
                f"distil.method={config.distil.method} learns: set it to {value}"
            )


def student_objective(config: ConfigDict, model: nn.Module, apply: Callable[..., Any]) -> Objective:
    """The objective of a student, which also takes `teacher=`, the `Teacher` if it is another network.

    Teacher and student get the same labels, unless the student itself is the part without the class of the guidance
    that it learns. Another network teaches without dropout, and the student itself with the same dropout.

    Args:
      config: configuration.
      model: the network of both.
      apply: the network as the student applies it.

    Raises:
      UserError: as `curriculum`.
    """
    lessons, from_network = curriculum(config), denoiser_of(config)
    own_guidance, null = takes_steps(config) and config.distil.guidance_scale != 1, config.labels.num_classes
    loss = METHODS[config.distil.method].loss(config, lessons)

    def terms(
        params: chex.ArrayTree, examples: Examples, key: jax.Array, *, teacher: Teacher | None = None
    ) -> dict[str, jax.Array]:
        label = shown_labels(config, examples.label, examples.label_keys)
        own = partial(from_network, partial(apply, rngs={"dropout": key}), {"params": params})
        if teacher is not None:
            other = _teaching(config, model, teacher, label)
        else:
            other = own(label=jnp.full_like(label, null) if own_guidance else label)
        return loss(own(label=label), other, examples.x_0, examples.noise_keys, examples.transition)

    return terms


def _teaching(config: ConfigDict, model: nn.Module, teacher: Teacher, label: jax.Array) -> Denoiser:
    """The denoiser of a teacher for labels `[B]`, guided if that is to be learned.

    Only the first teacher is guided: those of later stages are students, which have learned it.
    """
    network = lambda label: denoiser_of(config)(model.apply, {"params": teacher.params}, label=label)
    plain, scale = network(label), config.distil.guidance_scale
    if scale == 1:
        return plain
    guided = guided_by_label(network, label, null=config.labels.num_classes, scale=scale)
    return lambda x_t, level: jax.lax.cond(teacher.stage == 0, guided, plain, x_t, level)

"""Students from a configuration: what they learn after so many steps, and the loss by which they learn it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
from ml_collections import ConfigDict

from ddpm_jax.config import distils
from ddpm_jax.diffusion import distillation
from ddpm_jax.errors import UserError
from ddpm_jax.factory.chains import sampling_transitions
from ddpm_jax.factory.models import denoiser_of, shown_labels
from ddpm_jax.training.step import Examples, Objective


def curriculum(config: ConfigDict) -> distillation.Halving | None:
    """What the student of a configuration learns after so many steps; None for all other runs.

    Raises:
      UserError: its chain cannot be halved from the first stage to the last, or is not one that it could learn.
    """
    if not distils(config):
        return None
    _check_student(config)
    first, last = config.distil.first_steps, config.sample.num_steps
    counts = [2 * first]
    while counts[-1] > last > 0 and not counts[-1] % 2:
        counts.append(counts[-1] // 2)
    if counts[-1] != last or len(counts) < 2:
        raise UserError(
            f"config.distil.first_steps={first} cannot be halved to config.sample.num_steps={last}, the steps of the "
            f"last stage: set it to a power of two times these, such as {8 * last or 8}"
        )
    chains = tuple(sampling_transitions(config, count) for count in counts)
    try:
        return distillation.Halving(chains, config.distil.stage_steps)
    except ValueError as error:
        raise UserError(
            f"config.sample.grid={config.sample.grid} has other times for half the steps ({error}): choose trailing"
        ) from error


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
    part = config.sample
    wanted = {"sampler": "ddim", "eta": 0.0, "clip_x_0": False, "corrector_steps": 0, "churn": 0.0, "restarts": 0}
    for key, value in wanted.items():
        if part[key] != value:
            raise UserError(
                f"config.sample.{key}={part[key]} is no part of the steps that a student learns, which are those of "
                f"DDIM as it is: set it to {value}"
            )


def student_objective(config: ConfigDict, model: nn.Module, apply: Callable[..., Any]) -> Objective:
    """The objective of a student, which also takes `teacher=`, the parameters of the teacher.

    Teacher and student get the same labels, and dropout is left out of the teacher.

    Args:
      config: configuration.
      model: the network of both.
      apply: the network as the student applies it.

    Raises:
      UserError: as `curriculum`.
    """
    lessons, from_network = curriculum(config), denoiser_of(config)
    assert lessons is not None, "the run is that of a student"
    loss = distillation.l_progressive(lessons.middle)

    def terms(
        params: chex.ArrayTree, examples: Examples, key: jax.Array, *, teacher: chex.ArrayTree
    ) -> dict[str, jax.Array]:
        label = shown_labels(config, examples.label, examples.label_keys)
        student = from_network(partial(apply, rngs={"dropout": key}), {"params": params}, label=label)
        taught_by = from_network(model.apply, {"params": teacher}, label=label)
        return loss(student, taught_by, examples.x_0, examples.noise_keys, examples.transition)

    return terms

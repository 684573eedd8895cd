"""The teacher of a student: the run of a denoiser, opened for its parameters and compared with the student."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import (
    KEYS,
    changes,
    denoises,
    distils,
    editable,
    flatten,
    in_words,
    learned_guidance,
    takes_steps,
    to_json,
    unmet_needs,
)
from ddpm_jax.diffusion.distillation import Shortening
from ddpm_jax.errors import UserError, reading
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.paths import run_folder
from ddpm_jax.training.log import RunLog
from ddpm_jax.training.loop import Hook
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Metrics

_SHARED = ("network", "data.image_size", "data.channels", "labels.num_classes", "labels.dropout")
"""Keys in which teacher and student agree, besides those of `diffusion` and `model`."""


class Taught(NamedTuple):
    """A configuration with the digest of its teacher.

    Attributes:
      config: the configuration.
      params: the averaged parameters of the teacher; None for all runs but students.
    """

    config: ConfigDict
    params: chex.ArrayTree | None


def with_teacher(config: ConfigDict, stored: dict[str, Any] | None, network: nn.Module | None) -> Taught:
    """Opens the teacher that a configuration names, if it is that of a student.

    Args:
      config: configuration.
      stored: the configuration (JSON) that is stored with the run, or None for a new one.
      network: the network of a program, or None.

    Raises:
      UserError: there is no teacher, it has another network, noise schedule or images, or it is not the one with which
        the run began.
    """
    if not distils(config):
        return Taught(config, None)
    factory.curriculum(config)  # so that settings that do not fit raise an error here
    if not config.teacher.workdir:
        raise UserError(
            "a student needs a teacher: set config.teacher.workdir to the work directory of a trained denoiser"
        )
    workdir = run_folder(config.teacher.workdir)
    with reading(workdir):
        if not storage.is_dir(workdir):
            raise UserError(
                f"there is no run in {workdir}, which config.teacher.workdir names as the teacher: train it first, or "
                "name the work directory of another trained denoiser"
            )
    teacher = Run(workdir, network=network)
    if not denoises(teacher.config):
        raise UserError(f"{teacher.workdir} is the run of a classifier: a student needs a denoiser")
    _check_teacher(config, teacher)
    config, known = editable(config), stored["teacher"]["digest"] if stored and "teacher" in stored else ""
    config.teacher.digest, config.teacher.guidance_scale = teacher.digest(), learned_guidance(teacher.config)
    if known and known != config.teacher.digest:
        raise UserError(
            f"{teacher.workdir} is not the teacher with which this run began: its digest is {config.teacher.digest}, "
            f"and was {known}; set config.teacher.workdir to that one, or choose another workdir"
        )
    return Taught(config, teacher.params)


def _check_teacher(config: ConfigDict, teacher: Run) -> None:
    """Raises a `UserError` if a denoiser cannot teach this student."""
    factory.check_teachable(teacher.config)
    if clashes := changes(_shared(config, teacher.config), _shared(config, config)):
        raise UserError(f"{teacher.workdir} cannot teach this run: {in_words(clashes)}; set it as there")
    if takes_steps(teacher.config) and not takes_steps(config):
        raise UserError(
            f"{teacher.workdir} cannot teach this run: its network is told where a step ends, and this one is not; set "
            "config.distil.method=mean_flow, or choose another teacher"
        )
    if (learned := learned_guidance(teacher.config)) != 1:
        _check_guided(config, f"{teacher.workdir} has learned the guidance of the scale {learned:g}", learned)


def _check_guided(config: ConfigDict, has_learned: str, learned: float) -> None:
    """Raises a `UserError` if a teacher that has learned guidance would teach it twice, or a student forget it."""
    if config.distil.method == "progressive" and config.distil.guidance_scale != 1:
        raise UserError(f"{has_learned} already: leave config.distil.guidance_scale at 1")
    if config.distil.method == "mean_flow" and config.distil.guidance_scale != learned:
        raise UserError(
            f"{has_learned}, and this student would forget it, since it learns from images: set "
            f"config.distil.guidance_scale={learned:g} as there, or choose another teacher"
        )
    if config.distil.method == "consistency":
        raise UserError(
            f"{has_learned}, and this student would forget it, since it learns from images: choose another method or "
            "another teacher"
        )


def stage_lines(config: ConfigDict, log: RunLog) -> list[Hook]:
    """The hook that says in the log that a student becomes the teacher, or none."""
    lessons = factory.curriculum(config)
    if not isinstance(lessons, Shortening):
        return []

    def said(step: int, state: TrainState, metrics: Metrics) -> None:
        stage = int(lessons.stage(step))
        if stage != int(lessons.stage(step - 1)):
            count = lessons.chains[stage + 1].num_steps
            log.say(f"stage {stage + 1}: the student of step {step:,} is the teacher now, of one of {count} steps")

    return [said]


def _shared(student: ConfigDict, config: ConfigDict) -> dict[str, Any]:
    """The keys of a configuration in which a student and its teacher agree, if they have an effect on the student."""
    flat, own = flatten(to_json(config)), flatten(student)
    paths = [path for path in KEYS if path in _SHARED or path.partition(".")[0] in ("diffusion", "model")]
    return {path: flat[path] for path in paths if KEYS[path].fixed and not unmet_needs(path, own)}

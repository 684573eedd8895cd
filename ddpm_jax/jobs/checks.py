"""What a training job checks before its first step: its objects, the run that is stored, keys without effect."""

from typing import Any, NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import CUSTOM, check_resumable, distils, flatten, ignored, keys_set, no_effect, unmet_needs
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.distillation import Shortening
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.training.inputs import Batches, BatchesFrom


class Given(NamedTuple):
    """Objects of a program, each in place of what the configuration names, or None.

    Attributes:
      source: a `Source`; or batches `{"image": uint8 [B, H, W, C], "label": integers [B]}`, as an iterable, or as a
        function from the number of steps taken to an iterable, see `training.inputs.given_batches`.
      network: a linen module, see `factory.network`.
      loss: a `Loss`, `(denoise, x_0, keys, transition) -> {"loss": [B], ...}`.
    """

    source: Source | Batches | BatchesFrom | None = None
    network: nn.Module | None = None
    loss: Loss | None = None


_OF_A_SOURCE = ("data.on_device", "data.num_workers", "data.held_out", "log.quality_every")
"""Keys that have no effect with batches of a program."""

BEST_BY = {"fd": ("log.quality_every",), "held_out_loss": ("data.held_out", "log.held_out_every")}
"""The numbers by which the best checkpoint may be chosen, each with the keys without which it is not measured."""


def check_given(config: ConfigDict, stored: dict[str, Any] | None, given: Given, workdir: AnyPath) -> None:
    """Raises a `UserError` that names every object which the configuration or the stored run asks for and is missing.

    A stored run does not ask for its loss, which may change.
    """
    asked = {"source": config.data.source, "network": config.network, "loss": config.loss.kind}
    kept = {"source": stored["data"]["source"], "network": stored.get("network")} if stored else {}
    missing = [name for name in asked if CUSTOM in (asked[name], kept.get(name)) and getattr(given, name) is None]
    if not missing:
        return
    objects, arguments = " and ".join(f"a {name}" for name in missing), ", ".join(f"{name}=..." for name in missing)
    trained = CUSTOM in kept.values()
    raise UserError(
        f"{workdir} {'was trained with' if trained else 'needs'} {objects} from a program: "
        f"{'resume' if trained else 'start'} it with train(config, {str(workdir)!r}, {arguments})"
    )


def check_same_run(config: ConfigDict, stored: dict[str, Any] | None, *, workdir: AnyPath) -> None:
    """Refuses a directory that holds another run; prints which keys that may change have changed."""
    if stored is None:
        return
    for key, (old, new) in check_resumable(stored, config, workdir=workdir).items():
        print(f"note: {key} was {_short(old)} in this run so far and is {_short(new)} from now on", flush=True)


def check_effects(config: ConfigDict, given: Given, *, resumed: bool) -> None:
    """Refuses a new run with a key that has no effect; prints a note of each such key where a run is resumed.

    Either is refused if its chain needs measurements of a trained run.
    """
    if fitted := factory.fitted_keys(config):
        raise UserError(
            f"config.{fitted[0]} needs measurements of a trained run: train with another choice, then measure the run "
            "with evaluate.py --fit_chain and choose it with the flags of sample.py and evaluate.py"
        )
    lines = ignored(config)
    if given.source is not None and not isinstance(given.source, Source):
        reading = [path for path in keys_set(config) if path in _OF_A_SOURCE]
        lines += [no_effect(config, reading, "batches that a program gives", "a source of images")] * bool(reading)
    if config.checkpoint.best == "held_out_loss" and distils(config):
        raise UserError(
            "config.checkpoint.best=held_out_loss cannot compare the checkpoints of a student: its stages have other "
            "losses, and that of MeanFlow is weighted by the error itself; choose fd"
        )
    lines += _best_not_measured(config)
    for line in lines:
        if not resumed:
            raise UserError(line)
        print(f"note: {line}", flush=True)


def check_repeatable(config: ConfigDict, given: Given) -> None:
    """Refuses a roll-back that is impossible: over more batches than is permitted, or of batches that begin anew."""
    train = config.train
    if train.on_divergence == "rollback" and train.rollback_batches > train.max_passed_over:
        raise UserError(
            f"config.train.rollback_batches={train.rollback_batches} is above config.train.max_passed_over="
            f"{train.max_passed_over}, so that no roll-back is possible: set the latter to a multiple of the former"
        )
    from_beginning = given.source is not None and not isinstance(given.source, Source) and not callable(given.source)
    if from_beginning and config.train.on_divergence == "rollback":
        raise UserError(
            "config.train.on_divergence=rollback needs the batches of any step again: give a function of the number of "
            "steps taken in place of an iterable, or a source of images"
        )


def _best_not_measured(config: ConfigDict) -> list[str]:
    """A line if the number of the best checkpoint is not measured, or none."""
    name, values = config.checkpoint.best, flatten(config)
    missing = [path for path in BEST_BY.get(name, ()) if not values[path]]
    if not missing:
        unmet = [need for path in BEST_BY.get(name, ()) for need in unmet_needs(path, values)]
        causes = [(f"config.{need.key}={values[need.key]!r}", f"{need.key}{need.words}") for need in unmet[:1]]
        return [no_effect(config, ["checkpoint.best"], *cause) for cause in causes]
    wanted = " and ".join(f"config.{path} above 0" for path in missing)
    return [f"config.checkpoint.best={name} has no effect: set {wanted}"]


def _short(value: object) -> str:
    """Returns a value of a configuration as a short text."""
    return shortened(repr(value), 80)


def note_doubts(config: ConfigDict) -> None:
    """Prints a note on settings that are allowed but seldom intended."""
    warmup, last, left = config.optim.warmup_steps, config.train.num_steps, factory.noise_schedule(config).alpha_bar[-1]
    if warmup >= last:
        print(
            f"note: optim.warmup_steps={warmup} is not below train.num_steps={last}, so the learning rate never "
            "reaches its peak",
            flush=True,
        )
    lessons, decay = factory.curriculum(config), config.optim.decay_steps
    length = lessons.longest_stage(last) if isinstance(lessons, Shortening) else last
    if decay and warmup + decay < length:
        print(
            f"note: the learning rate is 0 after optim.warmup_steps={warmup} and optim.decay_steps={decay} steps, so "
            f"the last {length - warmup - decay} of {length} steps change nothing",
            flush=True,
        )
    if config.network == CUSTOM and config.labels.dropout:
        null = config.labels.num_classes
        print(
            f"note: with labels.dropout the network also gets the label {null}, the null label, so its table of "
            f"classes needs {null + 1} rows",
            flush=True,
        )
    if left > 0.01:
        print(
            f"note: {left:.0%} of an image's power remains at t = T, but sampling starts from pure noise: raise "
            "diffusion.num_timesteps or diffusion.beta_end",
            flush=True,
        )

"""The sinks of a run's log that a configuration names."""

from collections.abc import Callable

from ml_collections import ConfigDict

from ddpm_jax.factory.lookup import named
from ddpm_jax.training.board import TensorBoard
from ddpm_jax.training.sinks import Sink

SINKS: dict[str, Callable[[], Sink]] = {"tensorboard": TensorBoard}
"""A function that makes a sink which is not started yet, by its name in `config.log.sinks`."""


def sinks(config: ConfigDict) -> list[Sink]:
    """The sinks of a run besides its own record; raises a `UserError` if one is unknown or cannot be used here."""
    return [named(SINKS, name, "log.sinks")() for name in config.log.sinks]

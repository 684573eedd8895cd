"""The sinks of a run's log that a configuration names."""

import importlib.util
from collections.abc import Callable

from ml_collections import ConfigDict

from ddpm_jax.errors import UserError
from ddpm_jax.factory.lookup import named
from ddpm_jax.training.board import TensorBoard
from ddpm_jax.training.sinks import Sink
from ddpm_jax.training.trackers import Tracker


def _wandb() -> Tracker:
    """A sink to Weights & Biases; raises a `UserError` if its package is not installed."""
    _check_installed("wandb", "wandb")
    from ddpm_jax.training.wandb_client import WeightsAndBiases

    return Tracker(WeightsAndBiases())


def _mlflow() -> Tracker:
    """A sink to MLflow; raises a `UserError` if its package is not installed."""
    _check_installed("mlflow", "mlflow-skinny")
    from ddpm_jax.training.mlflow_client import MLflow

    return Tracker(MLflow())


def _check_installed(module: str, package: str) -> None:
    """Raises a `UserError` if a module is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"config.log.sinks has {module!r}, which needs a package: pip install {package}")


SINKS: dict[str, Callable[[], Sink]] = {"tensorboard": TensorBoard, "wandb": _wandb, "mlflow": _mlflow}
"""A function that makes a sink which is not started yet, by its name in `config.log.sinks`."""


def sinks(config: ConfigDict) -> list[Sink]:
    """The sinks of a run besides its own log; raises a `UserError` if one is unknown or its package is missing."""
    return [named(SINKS, name, "log.sinks")() for name in config.log.sinks]

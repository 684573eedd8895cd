"""MLflow as a `Client` of `trackers.py`; only a run whose log goes there loads this module.

MLFLOW_TRACKING_URI names the server or the database, and MLFLOW_EXPERIMENT_NAME the experiment.
"""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from ddpm_jax.training.sinks import Start

_PARAMS = 100  # that MLflow takes at once


class MLflow:
    """The run of a run in MLflow, with its first configuration as parameters and the latest one as config.json."""

    name = "mlflow"

    def open(self, start: Start, run_id: str | None) -> tuple[str, int]:
        """Opens a run of the experiment, which is made if absent."""
        self._client = MlflowClient()
        self._id = run_id or self._new(start)
        self._client.update_run(self._id, status="RUNNING")
        self._client.log_dict(self._id, start.config, "config.json")
        return self._id, max((metric.step for metric in self._client.get_metric_history(self._id, "loss")), default=0)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends the numbers of a step by name."""
        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in numbers.items()])

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Sends a picture `[H, W, C]` uint8."""
        self._client.log_image(self._id, image, key=name, step=step)

    def close(self, error: BaseException | None, done: bool) -> None:
        """Ends the run: KILLED is one that a signal has stopped before its last step; `open` lets it go on."""
        status = "FAILED" if isinstance(error, Exception) else "FINISHED" if error is None and done else "KILLED"
        self._client.set_terminated(self._id, status)

    def _new(self, start: Start) -> str:
        """Makes a run and returns its id."""
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ddpm_jax")
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        run_id = self._client.create_run(experiment_id, run_name=start.config["name"]).info.run_id
        params = [Param(path, str(value)) for path, value in _by_path(start.config)]
        for begin in range(0, len(params), _PARAMS):
            self._client.log_batch(run_id, params=params[begin : begin + _PARAMS])
        return run_id


def _by_path(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested dictionaries by their paths, such as "optim.learning_rate"."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _by_path(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

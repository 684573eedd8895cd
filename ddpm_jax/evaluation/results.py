"""Results as values of JSON, and the record of all measurements of a run, `evaluation/results.jsonl`.

A line of the record has everything that repeats its measurement.
"""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax import __version__
from ddpm_jax.errors import UserError, reading, shortened, writing
from ddpm_jax.runtime.conditional import add_line
from ddpm_jax.runtime.devices import all_devices, is_first
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import read_text


def record(folder: str | os.PathLike[str], metric: str, result: Mapping[str, Any]) -> None:
    """Adds a line to `FOLDER/results.jsonl`: the metric and its result, the time, the versions and the device.

    Of many processes only the first one writes.

    Raises:
      UserError: the file cannot be written.
    """
    if not is_first():
        return
    line = {
        "metric": metric,
        **result,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "ddpm_jax": __version__,
        "jax": importlib.metadata.version("jax"),
        "device": all_devices()[0].device_kind,
        "num_devices": len(all_devices()),
    }
    path = any_path(folder) / "results.jsonl"
    with writing(path):
        add_line(path, json.dumps(line, allow_nan=False))


def read_results(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of `WORKDIR/evaluation/results.jsonl`, oldest first; a line that was cut off is left out.

    Raises:
      UserError: the file cannot be read.
    """
    path, lines = any_path(workdir) / "evaluation" / "results.jsonl", []
    with reading(path), contextlib.suppress(FileNotFoundError):
        for line in read_text(path).splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def as_json(name: str, result: Any) -> dict[str, Any]:
    """A metric's result with the numbers and arrays of NumPy and JAX as those of Python.

    Raises:
      UserError: it is not a dictionary with text as keys, or a value cannot be written as JSON.
    """
    if not isinstance(result, Mapping) or not all(isinstance(key, str) for key in result):
        raise UserError(f"the metric {name} must return {{name: value}}, and returned {shortened(repr(result))}")
    try:
        return json.loads(json.dumps(result, default=_plain))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the result of the metric {name} has a value that cannot be written as JSON: {error}"
        ) from error


def _plain(value: Any) -> Any:
    """A number or an array of NumPy or JAX as numbers of Python; raises a TypeError for any other object."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufV" or array.dtype.names:
        raise TypeError(f"{type(value).__name__} is neither a number nor an array")
    return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()  # V: bfloat16


def check_finite(name: str, result: Mapping[str, Any]) -> None:
    """Raises a UserError that names the entries of a metric's result that are not finite."""
    broken = [key for key, value in result.items() if not _is_finite(value)]
    if broken:
        raise UserError(
            f"{name} was not written, because it is not finite ({', '.join(broken)}): the network does not give finite "
            "numbers for these images; try other parameters (params) or more steps (num_steps)"
        )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value of JSON are finite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)

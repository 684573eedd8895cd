"""The record of all measurements of a run, `evaluation/results.jsonl`: one line for each, with what repeats it."""

import datetime
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax import __version__
from ddpm_jax.errors import UserError, first_line, writing
from ddpm_jax.runtime.devices import all_devices, is_first


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
    path = Path(folder) / "results.jsonl"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")  # a line may have been cut off
        with path.open("a") as file:
            file.write("" if whole else "\n")
            file.write(json.dumps(line, allow_nan=False) + "\n")


def read_results(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of `WORKDIR/evaluation/results.jsonl`, oldest first; a line that was cut off is left out.

    Raises:
      UserError: the file cannot be read.
    """
    path, lines = Path(workdir) / "evaluation" / "results.jsonl", []
    try:
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    return lines

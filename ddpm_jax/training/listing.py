"""Which checkpoints a run has, and where each lies: on a disk, and in a bucket.

On a disk a checkpoint is a folder `checkpoints/STEP`. In a bucket it is `checkpoints/TERM/STEP`, and exists once
`checkpoints/manifest.json` lists it. Read next: `stores.py`.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError, first_line
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import MANIFEST

TERM = re.compile(r"t(\d+)")
"""The name of the folder of a term in a bucket."""
_PLACE = re.compile(r"(t\d+/)?\d+")  # of a checkpoint, in the folder


def checkpoint_paths(folder: AnyPath) -> dict[int, AnyPath]:
    """The folders of the finished checkpoints in a checkpoints folder by their steps, newest first.

    They are those of the manifest, and those that lie in the folder itself: on a disk, or as they were copied from one.
    In a bucket the folder is not listed if the manifest has any: a list may be older than what was written.

    Raises:
      UserError: the folder exists and cannot be listed, or its manifest is missing.
    """
    places = listed_places(folder)
    if isinstance(folder, Path) or not places:
        with _readable(folder):
            places = {**places_without_manifest(folder), **places}
    return {step: folder / places[step] for step in sorted(places, reverse=True)}


def checkpoint_path(folder: AnyPath, step: int) -> AnyPath:
    """The folder of the checkpoint of a step, which need not exist (any more)."""
    return checkpoint_paths(folder).get(step, folder / str(step))


def listed_places(folder: AnyPath) -> dict[int, str]:
    """The places of the checkpoints that the manifest lists, by their steps, relative to its folder; {} without one.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    with _readable(folder):
        return places_of(_manifest(folder))


@contextlib.contextmanager
def _readable(folder: AnyPath) -> Iterator[None]:
    """Turns an error of the body, which reads what a checkpoints folder has, into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot list the checkpoints in {folder}: {reason}; fix the cause, and start again") from error
    except ValueError as error:
        raise UserError(
            f"cannot list the checkpoints in {folder}: {MANIFEST} there is damaged; restore it from a copy or an "
            "older version of the object, or choose another workdir"
        ) from error


def places_without_manifest(folder: AnyPath) -> dict[int, str]:
    """The names of the checkpoints that lie in the folder itself, by their steps.

    Raises:
      OSError: it cannot be listed.
      UserError: it is in a bucket and has only checkpoints that a manifest should list, and none does.
      ValueError: the manifest is none.
    """
    below = storage.names(folder)
    found = {int(name): name for name in below if _is_step(name)}
    of_terms = not isinstance(folder, Path) and any(map(TERM.fullmatch, below))
    if of_terms and not found and "checkpoints" not in _manifest(folder):
        raise UserError(
            f"{folder} has checkpoints, but no {MANIFEST} that lists them: restore it from a copy or an older version "
            "of the object, or choose another workdir"
        )
    return found


def _is_step(name: str) -> bool:
    """Whether this is the name of a checkpoint's folder."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _manifest(folder: AnyPath) -> Any:
    """The content of the manifest, {} if there is none; raises an `OSError`, or a `ValueError` if it is not JSON."""
    try:
        return json.loads(storage.read_bytes(folder / MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def places_of(content: Any) -> dict[int, str]:
    """The places of the checkpoints that a manifest of this content lists, by their steps, relative to its folder.

    Raises:
      ValueError: it is not a manifest.
    """
    places = content.get("checkpoints", {}) if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(_PLACE.fullmatch(str(place)) for place in places.values()):
        raise ValueError("it is not a list of checkpoints")
    return {int(step): place for step, place in places.items()}

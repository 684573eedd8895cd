"""Buckets that are mounted as folders, on which a lock of the system may hold for one host only."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.errors import UserError, shortened

MOUNTS = Path("/proc/mounts")
"""The table of mounts of Linux; other systems have none."""
_VERTEX = Path("/gcs")
"""Where jobs of Vertex AI find every bucket, `/gcs/BUCKET/NAME`."""


class Mount(NamedTuple):
    """A line of the table of mounts.

    Attributes:
      place: the folder where it is mounted.
      kind: the kind of the file system, such as "ext4" or "fuse.gcsfuse".
      what: what is mounted, such as a device or the name of a bucket.
    """

    place: Path
    kind: str
    what: str


def mount_of(path: Path) -> Mount | None:
    """The mount that an absolute path, which need not exist, lies on; None if the system has no table of mounts."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    known = []
    for line in lines:
        what, place, kind = (_unescaped(word) for word in line.split(" ")[:3])
        known.append(Mount(Path(place), kind, what))
    real = Path(os.path.realpath(path))
    holding = [mount for mount in known if real.is_relative_to(mount.place)]
    return max(holding, key=lambda mount: len(mount.place.parts), default=None)


def bucket_of(folder: Path) -> str | None:
    """The address `gs://BUCKET/NAME` of an absolute folder below `/gcs` that is a mounted bucket; None for a disk.

    A folder on another kind of FUSE (a file system of a program) gives a note, because its locks may not be seen by
    other hosts.

    Raises:
      UserError: a bucket is mounted there by gcsfuse elsewhere, so that the part of it that is mounted is not known.
    """
    mount = mount_of(folder)
    if mount is None or not mount.kind.startswith("fuse"):
        return None
    real = Path(os.path.realpath(folder))
    if _VERTEX in (mount.place, mount.place.parent):
        return f"gs://{real.relative_to(_VERTEX)}"
    if "gcsfuse" in mount.kind or "gcsfuse" in mount.what:
        raise UserError(
            f"cannot use {shortened(folder)} for a run: it is a bucket mounted by gcsfuse, where a lock holds for one "
            "host only: give its address, gs://BUCKET/NAME"
        )
    if mount.kind not in ("fuseblk", "fusectl", "fuse.lxcfs", "fuse.fuse-overlayfs"):
        _note(mount.kind, str(mount.place))
    return None


@functools.cache
def _note(kind: str, place: str) -> None:
    """Prints once that a mount may not lock a run."""
    print(
        f"note: the mount {shortened(place)} is of the kind {kind}, whose locks other hosts may not see: train a run "
        "there from one host at a time",
        flush=True,
    )


def _unescaped(word: str) -> str:
    """A word of the table, where a space, a tab, a newline and a backslash are written as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word

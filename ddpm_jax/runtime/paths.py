"""Paths as users write them: `~`, addresses of buckets, unusual names, a checkpoint instead of its run.

Every flag, configuration key and argument that takes a path goes through `expanded`, `any_path`, `local_path` or
`run_folder`, so that a path means the same everywhere, and a path that cannot be used raises an error before any work
is done. `gs://BUCKET/NAME` is used directly (`storage.py`); other buckets are read by a mount.
"""

import os
import posixpath
import re
import shlex
import sys
from pathlib import Path

from etils import epath

from ddpm_jax.errors import UserError, shortened
from ddpm_jax.runtime import buckets, mounts, storage
from ddpm_jax.runtime.buckets import AnyPath

# Any `word://`, and for the usual words also `word:/`, to which `pathlib` shortens it.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(gs|s3|hf|https?|ftp|file):/", re.IGNORECASE)
_HINTS: dict[str, str] = {
    "file": "write only the path, beginning with its first /",
    **dict.fromkeys(("http", "https", "ftp", "hf"), "download it, and give the path of the downloaded file"),
}
_MOUNT = "mount the bucket, and give the path of the mounted folder"
_BUCKET = re.compile(r"gs:/{1,2}(?=[^/])", re.IGNORECASE)
_PATTERN = re.compile(r"[*?[]")  # gcsfs and epath would remove and copy every name that fits


def expanded(path: str | os.PathLike[str]) -> str:
    """The path with `~` and `~user` replaced by the home directory; a slash at the end stays.

    Raises:
      UserError: the path is empty or an address other than `gs://BUCKET/NAME`, there is no such home directory, the
        packages for buckets are not installed, or the name in a bucket has a character of a pattern.
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme and _BUCKET.match(text):
        return _in_bucket(text)
    if scheme:
        hint = _HINTS.get((scheme[1] or scheme[2]).lower(), f"only gs:// buckets are used directly: {_MOUNT}")
        raise UserError(f"cannot use {shortened(text)}: {hint}")
    if not text or "\0" in text:
        raise UserError("cannot use an empty path: give the path of a file or folder")
    whole = os.path.expanduser(text)
    if whole.startswith("~"):
        user = text.partition("/")[0]
        missing = "there is no home directory" if user == "~" else f"there is no user {user[1:]}"
        hint = f"write the whole path, or ./{user} for a name that begins with ~"
        raise UserError(f"cannot use {shortened(text)}: {shortened(missing)}; {shortened(hint)}")
    return whole


def _in_bucket(text: str) -> str:
    """An address `gs://BUCKET/NAME` in its usual form, from one that `pathlib` may have shortened to `gs:/`."""
    if missing := buckets.missing_packages():
        raise UserError(
            f"cannot use {shortened(text)}: buckets need the packages {' and '.join(missing)}: "
            "pip install gcsfs google-cloud-storage"
        )
    name = _BUCKET.sub("", text)
    if _PATTERN.search(name):
        raise UserError(f"cannot use {shortened(text)}: give a name without * ? [, which is a pattern in a bucket")
    buckets.prepare_buckets()
    return f"gs://{posixpath.normpath(name)}{'/' * name.endswith('/')}"


def any_path(path: str | os.PathLike[str]) -> AnyPath:
    """`expanded` as a path on a disk or in a bucket, which gives the same path when it is passed here again.

    A relative path stays relative if possible: `Path` drops the `./` of `./~name` and of `./gs://name`, so these become
    absolute.
    """
    text = expanded(path)
    if _BUCKET.match(text):
        return epath.Path(text)
    place = Path(text)
    return place.absolute() if str(place).startswith("~") or _SCHEME.match(str(place)) else place


def local_path(path: str | os.PathLike[str]) -> Path:
    """`any_path` of a file or folder that only a disk can hold.

    Raises:
      UserError: as `expanded`; or it is in a bucket.
    """
    place = any_path(path)
    if not isinstance(place, Path):
        raise UserError(f"cannot use {shortened(place)}: this is read from a disk only: {_MOUNT}")
    return place


def absolute(path: AnyPath) -> AnyPath:
    """The path from the root, with links resolved; that of a bucket stays."""
    return path.resolve() if isinstance(path, Path) else path


def run_folder(path: str | os.PathLike[str]) -> AnyPath:
    """The directory of a run, which need not exist yet; a mounted bucket of Google Cloud Storage becomes `gs://`.

    Raises:
      UserError: as `outside_checkpoints`; its name is not UTF-8, so that no checkpoint can be stored or read in it; or
        it is on a mount where a run cannot be locked (`mounts.py`).
    """
    folder = outside_checkpoints(path)
    if isinstance(folder, Path):
        _check_encoding(folder)
        bucket = mounts.bucket_of(folder.absolute())
        return folder if bucket is None else any_path(bucket)
    if len(folder.parts) < 4:  # /, gs and the bucket
        raise UserError(f"cannot use {folder}: give a name inside of the bucket, such as {folder}/my_run")
    return folder


def _check_encoding(folder: Path) -> None:
    """Raises a `UserError` if the name of a folder is not UTF-8."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"checkpoints cannot be stored in {shortened(folder.absolute())}, because its name is not UTF-8: rename "
            "the folder"
        ) from error


def outside_checkpoints(path: str | os.PathLike[str]) -> AnyPath:
    """`any_path` of a path that may be that of a run.

    Raises:
      UserError: as `expanded`; or it is the folder of a run's checkpoints or one of them: the message names the run.
    """
    folder = any_path(path)
    whole = Path(os.path.normpath(folder.absolute())) if isinstance(folder, Path) else folder
    for level in (whole, *whole.parents[:3]):  # RUN/checkpoints, and in it STEP/state or, in a bucket, TERM/STEP/state
        if holds_checkpoints(level):
            what = "the checkpoints folder" if level == whole else "a checkpoint"
            run = str(level.parent)
            if isinstance(folder, Path):
                run = os.path.normpath(folder / os.path.relpath(run, whole))
            raise UserError(
                f"{shortened(folder)} is {what} of the run in {shortened(run)}: give {shortened(shlex.quote(run))}, "
                "whose newest checkpoint is used"
            )
    return folder


MANIFEST = "manifest.json"
"""The file in the folder of the checkpoints of a run in a bucket that lists them, see `training/listing.py`."""


def holds_checkpoints(folder: AnyPath) -> bool:
    """Whether this is the folder in which a run has its checkpoints, and not just a folder of the same name."""
    try:
        return folder.name == "checkpoints" and (
            storage.exists(folder / MANIFEST)
            or any(name.isdigit() and storage.exists(folder / name / "_CHECKPOINT_METADATA")
                   for name in storage.names(folder))
        )  # fmt: skip
    except OSError:
        return False


def as_flag(name: str, path: str | os.PathLike[str]) -> str:
    """`--name=path`, quoted for a shell, for commands in messages."""
    return shlex.quote(f"--{name}={os.fspath(path)}")


def show_unprintable_by_code() -> None:
    """Makes stdout and stderr write the code of a character that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def cache_folder() -> Path | None:
    """The user's cache folder of this package, in `$XDG_CACHE_HOME` or `~/.cache`; None if it cannot be made.

    A container's user may have no home directory, or one that cannot be written to.
    """
    place = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(place if os.path.isabs(place) else os.path.expanduser("~/.cache")) / "ddpm_jax"
    try:
        if folder.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
            return folder if os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        pass
    return None

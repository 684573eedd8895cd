"""Paths as users write them: `~`, addresses of buckets, unusual names, a checkpoint instead of its run.

Every flag, configuration key and argument that takes a path goes through `expanded`, `local_path` or `run_folder`,
so that a path means the same everywhere, and a path that cannot be used raises an error before any work is done.
"""

import os
import re
import shlex
import sys
from pathlib import Path

from ddpm_jax.errors import UserError, shortened

# Any `word://`, and for the usual words also `word:/`, to which `pathlib` shortens it.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(gs|s3|hf|https?|ftp|file):/", re.IGNORECASE)
_HINTS: dict[str, str] = {
    "file": "write only the path, beginning with its first /",
    **dict.fromkeys(("http", "https", "ftp", "hf"), "download it, and give the path of the downloaded file"),
}
_BUCKET_HINT = "buckets are not supported yet: mount the bucket, and give the path of the mounted folder"


def expanded(path: str | os.PathLike[str]) -> str:
    """The path with `~` and `~user` replaced by the home directory; a slash at the end stays.

    Raises:
      UserError: the path is empty or an address such as `gs://bucket/folder`, or there is no such home directory.
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme:
        hint = _HINTS.get((scheme[1] or scheme[2]).lower(), _BUCKET_HINT)
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


def local_path(path: str | os.PathLike[str]) -> Path:
    """`expanded` as a `Path`, which gives the same path when it is passed here again; it stays relative if possible.

    `Path` drops the `./` of `./~name` and of `./gs://name`, so these become absolute.
    """
    place = Path(expanded(path))
    return place.absolute() if str(place).startswith("~") or _SCHEME.match(str(place)) else place


def run_folder(path: str | os.PathLike[str]) -> Path:
    """The directory of a run, which need not exist yet.

    Raises:
      UserError: as `outside_checkpoints`; or its name is not UTF-8, so that no checkpoint can be stored or read in it.
    """
    folder = outside_checkpoints(path)
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"checkpoints cannot be stored in {shortened(folder.absolute())}, because its name is not UTF-8: rename "
            "the folder"
        ) from error
    return folder


def outside_checkpoints(path: str | os.PathLike[str]) -> Path:
    """`local_path` of a path that may be that of a run.

    Raises:
      UserError: as `local_path`; or it is the folder of a run's checkpoints or one of them: the message names the run.
    """
    folder = local_path(path)
    whole = Path(os.path.normpath(folder.absolute()))
    for level in (whole, *whole.parents[:2]):  # RUN/checkpoints, RUN/checkpoints/STEP, RUN/checkpoints/STEP/state
        if holds_checkpoints(level):
            what = "the checkpoints folder" if level == whole else "a checkpoint"
            run = os.path.normpath(folder / os.path.relpath(level.parent, whole))
            raise UserError(
                f"{shortened(folder)} is {what} of the run in {shortened(run)}: give {shortened(shlex.quote(run))}, "
                "whose newest checkpoint is used"
            )
    return folder


def holds_checkpoints(folder: Path) -> bool:
    """Whether this is the folder in which a run has its checkpoints, and not just a folder of the same name."""
    try:
        return folder.name == "checkpoints" and any(
            child.name.isdigit() and (child / "_CHECKPOINT_METADATA").exists() for child in folder.iterdir()
        )
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

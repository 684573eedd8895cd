"""Buckets of Google Cloud Storage, for `storage.py` and `lease.py`: gcsfs for files, and writes on a condition.

Every error of the libraries is an `OSError` here, as those of a disk are.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from ddpm_jax.errors import UserError, first_line


class ChangedError(OSError):
    """An object of a bucket is not of the generation that a write was to replace."""


def read_versioned(path: epath.Path) -> tuple[bytes, int]:
    """The content of an object and its generation; `(b"", 0)` if it does not exist.

    Raises:
      OSError: it cannot be read.
    """
    from google.api_core.exceptions import NotFound

    with as_os_errors(path), contextlib.suppress(NotFound):
        blob = _blob(path)
        content = blob.download_as_bytes()
        assert blob.generation is not None, "a download says the generation"
        return content, int(blob.generation)
    return b"", 0


def write_if(path: epath.Path, content: bytes, generation: int) -> int:
    """Writes an object if it still has this generation, 0 for absent; returns the new generation.

    Raises:
      ChangedError: it has another one.
      OSError: it is not known whether it was written.
    """
    from google.api_core.exceptions import PreconditionFailed

    try:
        with as_os_errors(path, passing=(PreconditionFailed,)):
            blob = _blob(path)
            blob.upload_from_string(content, if_generation_match=generation)
            assert blob.generation is not None, "an upload says the generation"
            return int(blob.generation)
    except PreconditionFailed as error:
        raise ChangedError(errno.ESTALE, "another process wrote it meanwhile", str(path)) from error


def remove_if(path: epath.Path, generation: int) -> None:
    """Removes an object if it still has this generation; raises as `write_if`."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    try:
        with as_os_errors(path, passing=(PreconditionFailed,)), contextlib.suppress(NotFound):
            _blob(path).delete(if_generation_match=generation)
    except PreconditionFailed as error:
        raise ChangedError(errno.ESTALE, "another process wrote it meanwhile", str(path)) from error


def missing_packages() -> list[str]:
    """The packages that buckets need and that are not installed."""
    return [name for name, module in (("gcsfs", "gcsfs"), ("google-cloud-storage", "google.cloud.storage"))
            if not _importable(module)]  # fmt: skip


@functools.cache
def _importable(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


@functools.cache
def prepare_buckets() -> None:
    """Has every part of the program read buckets by gcsfs, whose listings are never kept: another process writes too.

    epath would use TensorFlow where that is installed.
    """
    import fsspec.config

    os.environ.setdefault("EPATH_USE_TF", "false")
    for name in ("gs", "gcs"):
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)


def file_system() -> Any:
    """The file system of buckets, the same as epath's."""
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)


@functools.cache
def _client() -> Any:
    """The client for conditional writes."""
    from google.cloud import storage

    return storage.Client()


def _blob(path: epath.Path) -> Any:
    """The object of Google's library at a path."""
    bucket, _, name = str(path).removeprefix("gs://").partition("/")
    return _client().bucket(bucket).blob(name)


@contextlib.contextmanager
def as_os_errors(path: Path | epath.Path, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns the errors of the libraries for buckets into an `OSError`; those of a disk are such already.

    Args:
      path: the path that is read or written.
      passing: kinds of errors that stay as they are.
    """
    if not isinstance(path, Path):
        prepare_buckets()  # also in a process that was started to read images
    try:
        yield
    except (OSError, UserError, *passing):
        raise
    except Exception as error:
        if isinstance(path, Path):
            raise
        raise OSError(errno.EIO, _reason(error), str(path)) from error


def _reason(error: Exception) -> str:
    """Why a bucket cannot be used, in a few words, with a remedy if it is known."""
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    if isinstance(error, DefaultCredentialsError | RefreshError):
        return "no valid login to Google Cloud was found: run `gcloud auth application-default login`"
    return first_line(error)

"""Writes to an object of a bucket on the condition that nobody else has written it: the base of a lease.

Every version of an object has a number, its generation; 0 stands for an object that does not exist.
"""

import contextlib
import errno
import functools
from pathlib import Path
from typing import Any

from etils import epath

from ddpm_jax.runtime.buckets import AnyPath, as_os_errors


class ChangedError(OSError):
    """An object of a bucket is not of the generation that a write was to replace."""


_REQUEST = 5.0  # seconds for which one request waits: these objects are small


def read_versioned(path: epath.Path, *, seconds: float = 60.0) -> tuple[bytes, int]:
    """The content of an object and its generation; `(b"", 0)` if it does not exist.

    Args:
      path: the object.
      seconds: for how long it is tried.

    Raises:
      OSError: it cannot be read.
    """
    from google.api_core.exceptions import NotFound

    with as_os_errors(path), contextlib.suppress(NotFound):
        blob = _blob(path)
        content = blob.download_as_bytes(**_limits(seconds))
        assert blob.generation is not None, "a download says the generation"
        return content, int(blob.generation)
    return b"", 0


def write_if(path: epath.Path, content: bytes, generation: int, *, seconds: float = 60.0) -> int:
    """Writes an object if it still has this generation, 0 for absent; returns the new generation.

    Args:
      path: the object.
      content: its new content.
      generation: the one that is replaced.
      seconds: for how long it is tried.

    Raises:
      ChangedError: it has another one.
      OSError: it is not known whether it was written.
    """
    from google.api_core.exceptions import PreconditionFailed

    try:
        with as_os_errors(path, passing=(PreconditionFailed,)):
            blob = _blob(path)
            blob.upload_from_string(content, if_generation_match=generation, **_limits(seconds))
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


def add_line(path: AnyPath, line: str) -> None:
    """Adds a line to a file of lines, which is made if absent; a last line that was cut off ends before it.

    In a bucket the file is written again, unless another process has written it meanwhile; then it is read again. It
    has the line then if only the answer was lost, and the library sent the same request again.

    Raises:
      OSError: it cannot be written.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        with path.open("a") as file:
            file.write(f"{'' if whole else chr(10)}{line}\n")
        return
    before, added = None, f"{line}\n".encode()
    while True:
        content, generation = read_versioned(path)
        if before is not None and content.removeprefix(before).startswith(added):
            return
        before = content if content[-1:] in (b"", b"\n") else content + b"\n"
        with contextlib.suppress(ChangedError):
            write_if(path, before + added, generation)
            return


@functools.cache
def _client() -> Any:
    """The client for conditional writes."""
    from google.cloud import storage

    return storage.Client()


def _limits(seconds: float) -> dict[str, Any]:
    """The arguments of a request of Google's library that is tried for so long, and a last time for `_REQUEST` more."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": min(seconds, _REQUEST), "retry": DEFAULT_RETRY.with_timeout(seconds)}


def _blob(path: epath.Path) -> Any:
    """The object of Google's library at a path."""
    bucket, _, name = str(path).removeprefix("gs://").partition("/")
    return _client().bucket(bucket).blob(name)

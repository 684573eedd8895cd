"""Files wherever they lie, on a disk or in a bucket of Google Cloud Storage: read whole, written whole or not at all.

A path on a disk is a `pathlib.Path`. One in a bucket, `gs://BUCKET/NAME`, is an `epath.Path`, which gcsfs opens. A
bucket has objects and no folders: an object appears when its upload is complete, it cannot be appended to, and only an
upload that names the generation that it replaces (`write_if`) can tell that nobody else wrote in the meantime.
Every error of a bucket is an `OSError` here, as those of a disk are. Read next: `lease.py`.
"""

import contextlib
import errno
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from ddpm_jax.errors import UserError, first_line, writing
from ddpm_jax.runtime.devices import is_first

AnyPath: TypeAlias = Path | epath.Path
"""A path on a disk, or in a bucket."""


class ChangedError(OSError):
    """An object of a bucket is not of the generation that a write was to replace."""


def in_bucket(path: AnyPath) -> bool:
    """Whether a path is that of an object in a bucket."""
    return isinstance(path, epath.Path)


def read_bytes(path: AnyPath) -> bytes:
    """The content of a file; raises an `OSError` if it does not exist or cannot be read."""
    with _as_os_errors(path):
        # One request: an opened file asks for the size first, and has the wrong end if the object is replaced then.
        return path.read_bytes() if isinstance(path, Path) else _gcs().cat_file(str(path))


def read_text(path: AnyPath, *, errors: str = "strict") -> str:
    """The content of a file in UTF-8; raises as `read_bytes`, and a `UnicodeDecodeError` if `errors` is "strict"."""
    return read_bytes(path).decode(errors=errors)


def exists(path: AnyPath) -> bool:
    """Whether there is a file, or a folder with something in it."""
    with _as_os_errors(path):
        return path.exists()


def is_dir(path: AnyPath) -> bool:
    """Whether there is a folder; one in a bucket exists as long as something is in it."""
    with _as_os_errors(path):
        return path.is_dir()


def names(folder: AnyPath) -> list[str]:
    """The names of what is in a folder, sorted; [] if there is no such folder.

    Raises:
      OSError: it cannot be listed.
    """
    with _as_os_errors(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder) if isinstance(folder, Path) else {path.name for path in folder.iterdir()})
    return []


def files_below(folder: AnyPath) -> list[tuple[AnyPath, int]]:
    """All files below a folder with their sizes in bytes, sorted by their paths; hidden ones are included."""
    if isinstance(folder, Path):
        found = [path for path in folder.rglob("*") if path.is_file()]
        return [(path, path.stat().st_size) for path in sorted(found)]
    with _as_os_errors(folder), contextlib.suppress(FileNotFoundError):
        listed = _gcs().find(str(folder), detail=True)
        return [(epath.Path(f"gs://{name}"), int(about["size"])) for name, about in sorted(listed.items())]
    return []


def write_bytes(path: AnyPath, content: bytes) -> None:
    """Writes a file whole: nobody sees a part of it, also if the process is killed; its folder is made if absent.

    Raises:
      OSError: it cannot be written.
    """
    if not isinstance(path, Path):
        with _as_os_errors(path):
            _gcs().pipe_file(str(path), content)
        return
    with _replaced(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` whose file takes the name of `path` when the `with` statement ends without an error.

    The folder is made if absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: AnyPath, write: Callable[[Path], object]) -> None:
    """Makes a file by `write(temporary path)` and gives it its name, so that a half-written file never has it.

    Of many processes only the first one writes.

    Raises:
      UserError: it cannot be written.
    """
    if not is_first():
        return
    with writing(path):
        if isinstance(path, Path):
            with _replaced(path) as temporary:
                write(temporary)
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder, path.name))
            _upload(Path(folder, path.name), path)


def check_writable(path: AnyPath) -> None:
    """Raises the `UserError` of `write_whole` now, before the content of the file is computed."""
    if not is_first():
        return
    with writing(path):
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():  # which a file cannot replace
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        probe = path.with_name(f".{path.name}.probe")
        write_bytes(probe, b"")
        remove(probe)


def add_line(path: AnyPath, line: str) -> None:
    """Adds a line to a file of lines, which is made if absent; a last line that was cut off ends before it.

    In a bucket the file is written again, unless another process has written it meanwhile; then it is read again.

    Raises:
      OSError: it cannot be written.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        with path.open("a") as file:
            file.write(f"{'' if whole else chr(10)}{line}\n")
        return
    while True:
        content, generation = read_versioned(path)
        with contextlib.suppress(ChangedError):
            write_if(path, content + f"{line}\n".encode(), generation)
            return


def remove(path: AnyPath) -> None:
    """Removes a file if it exists; raises an `OSError` if that is impossible."""
    with _as_os_errors(path):
        path.unlink(missing_ok=True)


def remove_tree(folder: AnyPath) -> None:
    """Removes a folder with all that is in it, if it exists; raises an `OSError` if that is impossible."""
    if isinstance(folder, Path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    with _as_os_errors(folder), contextlib.suppress(FileNotFoundError):
        _gcs().rm(str(folder), recursive=True)


@contextlib.contextmanager
def local_file(path: AnyPath) -> Iterator[Path]:
    """Yields a file on a disk with the content of `path`: itself, or a copy that exists during the `with` statement.

    Raises:
      OSError: it cannot be read.
    """
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        with _as_os_errors(path):
            _gcs().get_file(str(path), os.path.join(folder, path.name))
        yield Path(folder, path.name)


@contextlib.contextmanager
def local_folder(path: AnyPath) -> Iterator[Path]:
    """Yields `path`, a file or a folder, on a disk: itself, or a copy that exists during the `with` statement.

    Raises:
      OSError: it cannot be read.
    """
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        with _as_os_errors(path):
            _gcs().get(str(path), str(copy), recursive=path.is_dir())
        yield copy


def read_versioned(path: epath.Path) -> tuple[bytes, int]:
    """The content of an object and its generation; `(b"", 0)` if it does not exist.

    Raises:
      OSError: it cannot be read.
    """
    from google.api_core.exceptions import NotFound

    with _as_os_errors(path), contextlib.suppress(NotFound):
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
        with _as_os_errors(path, passing=(PreconditionFailed,)):
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
        with _as_os_errors(path, passing=(PreconditionFailed,)), contextlib.suppress(NotFound):
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


def _gcs() -> Any:
    """The file system of buckets, the same as epath's."""
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)


def _upload(file: Path, path: epath.Path) -> None:
    """Uploads a file of the disk as an object."""
    with _as_os_errors(path):
        _gcs().put_file(str(file), str(path))


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
def _as_os_errors(path: AnyPath, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
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

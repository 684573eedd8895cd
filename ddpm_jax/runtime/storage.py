"""Files wherever they lie, on a disk or in a bucket of Google Cloud Storage: read whole, written whole or not at all.

A path on a disk is a `pathlib.Path`. One in a bucket, `gs://BUCKET/NAME`, is an `epath.Path`, which gcsfs opens. A
bucket has objects and no folders: an object appears when its upload is complete, it cannot be appended to, and only an
upload that names the generation that it replaces (`conditional.py`) can tell that nobody else wrote in the meantime.
Every error of a bucket is an `OSError` here, as those of a disk are. Read next: `lease.py`.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from etils import epath

from ddpm_jax.errors import writing
from ddpm_jax.runtime.buckets import AnyPath, as_os_errors, gcs
from ddpm_jax.runtime.devices import is_first


def in_bucket(path: AnyPath) -> bool:
    """Whether a path is that of an object in a bucket."""
    return isinstance(path, epath.Path)


def read_bytes(path: AnyPath) -> bytes:
    """The content of a file; raises an `OSError` if it does not exist or cannot be read."""
    with as_os_errors(path):
        # One request: an opened file asks for the size first, and has the wrong end if the object is replaced then.
        return path.read_bytes() if isinstance(path, Path) else gcs().cat_file(str(path))


def read_text(path: AnyPath, *, errors: str = "strict") -> str:
    """The content of a file in UTF-8; raises as `read_bytes`, and a `UnicodeDecodeError` if `errors` is "strict"."""
    return read_bytes(path).decode(errors=errors)


def exists(path: AnyPath) -> bool:
    """Whether there is a file, or a folder with something in it."""
    with as_os_errors(path):
        return path.exists()


def is_dir(path: AnyPath) -> bool:
    """Whether there is a folder; one in a bucket exists as long as something is in it."""
    with as_os_errors(path), contextlib.suppress(FileNotFoundError):
        # gcsfs's own `isdir` says no to every error.
        return path.is_dir() if isinstance(path, Path) else gcs().info(str(path))["type"] == "directory"
    return False


def names(folder: AnyPath) -> list[str]:
    """The names of what is in a folder, sorted; [] if there is no such folder.

    Raises:
      OSError: it cannot be listed.
    """
    with as_os_errors(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder) if isinstance(folder, Path) else {path.name for path in folder.iterdir()})
    return []


def files_below(folder: AnyPath) -> list[tuple[AnyPath, int]]:
    """All files below a folder with their sizes in bytes, sorted by their paths; hidden ones are included."""
    if isinstance(folder, Path):
        found = [path for path in folder.rglob("*") if path.is_file()]
        return [(path, path.stat().st_size) for path in sorted(found)]
    return [(folder / name, size) for name, (size, _) in objects_below(folder).items()]


def objects_below(folder: epath.Path) -> dict[str, tuple[int, str]]:
    """The size in bytes and the generation of every object below a folder, by its relative path with "/", sorted."""
    with as_os_errors(folder), contextlib.suppress(FileNotFoundError):
        skipped, listed = len(f"{folder}/".removeprefix("gs://")), gcs().find(str(folder), detail=True)
        return {
            name[skipped:]: (int(about["size"]), str(about["generation"])) for name, about in sorted(listed.items())
        }
    return {}


def modified(path: AnyPath) -> float:
    """When a file was last written, in seconds since 1970; raises an `OSError` if it does not exist."""
    if isinstance(path, Path):
        return path.stat().st_mtime
    with as_os_errors(path):
        return gcs().modified(str(path)).timestamp()


def write_bytes(path: AnyPath, content: bytes) -> None:
    """Writes a file whole: nobody sees a part of it, also if the process is killed; its folder is made if absent.

    Raises:
      OSError: it cannot be written.
    """
    if not isinstance(path, Path):
        with as_os_errors(path):
            gcs().pipe_file(str(path), content)
        return
    with _replaced(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` whose file takes the name of `path` when the `with` statement ends without an error.

    The folder is made if absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
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


def remove(path: AnyPath) -> None:
    """Removes a file if it exists; raises an `OSError` if that is impossible."""
    with as_os_errors(path):
        path.unlink(missing_ok=True)


def remove_tree(folder: AnyPath) -> None:
    """Removes a folder with all that is in it, if it exists; raises an `OSError` if that is impossible."""
    if isinstance(folder, Path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    with as_os_errors(folder), contextlib.suppress(FileNotFoundError):
        gcs().rm(str(folder), recursive=True)


def local_file(path: AnyPath) -> AbstractContextManager[Path]:
    """Returns a context with a file on a disk with the content of `path`: itself, or a copy for that long.

    Raises:
      OSError: it cannot be read.
    """
    return _on_disk(path, lambda copy: gcs().get_file(str(path), copy))


def local_folder(path: AnyPath) -> AbstractContextManager[Path]:
    """Returns a context with `path`, a file or a folder, on a disk: itself, or a copy for that long.

    Raises:
      OSError: it cannot be read.
    """
    return _on_disk(path, lambda copy: gcs().get(str(path), copy, recursive=path.is_dir()))


@contextlib.contextmanager
def _on_disk(path: AnyPath, fetch: Callable[[str], object]) -> Iterator[Path]:
    """Yields a path on a disk: `path` itself, or the copy that `fetch` makes in a temporary folder."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        with as_os_errors(path):
            fetch(str(copy))
        yield copy


def _upload(file: Path, path: epath.Path) -> None:
    """Uploads a file of the disk as an object."""
    with as_os_errors(path):
        gcs().put_file(str(file), str(path))

"""Reading of tensors from files without running any code in them, and output folders that are complete or absent.

Read next: `torch_files.py`, `folders.py`.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import safetensors
from etils import epath

from ddpm_jax.convert import pickles, torch_files
from ddpm_jax.convert.names import StateDict
from ddpm_jax.errors import UserError, first_line, reading, shortened, writing
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path, local_path

# A function that takes the number of a signal and the frame that it interrupts.
_Handler: TypeAlias = Callable[[int, FrameType | None], Any]


def read_weights(path: str | os.PathLike[str]) -> Any:
    """The content of a file of weights, which is not checked: usually `{name: array}`, or a list with such dicts in it.

    Raises:
      UserError: there is no such file, it cannot be read, it is damaged, or it asks to run code.
    """
    path = local_path(path)
    with reading(path):
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        path.open("rb").close()  # its error says why the file cannot be opened; a reader's does not
        try:
            return _safetensors(path) if path.suffix == ".safetensors" else torch_files.read(path)
        except (UserError, OSError):
            raise
        except pickles.UnknownNameError as error:
            raise UserError(
                f"{path} asks to run {shortened(error)}, so it was not opened: weights need no code; use a safetensors "
                "file instead"
            ) from error
        except Exception as error:  # a broken file can raise anything
            raise UserError(
                f"{path} is not a complete file of weights ({shortened(first_line(error), 120)}); download it again"
            ) from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file."""
    with safetensors.safe_open(path, framework="np") as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
        except (AttributeError, safetensors.SafetensorError) as error:
            if isinstance(error, AttributeError) or "Dtype not understood" in str(error):
                raise UserError(f"{path} has numbers of an unknown type ({error}); save it as float32") from error
            raise


def is_state_dict(value: object) -> TypeGuard[dict[str, np.ndarray]]:
    """Whether this is `{name: array}` and not empty."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, np.ndarray) for name, item in value.items())
    )


def without_prefix(state_dict: StateDict) -> StateDict:
    """The dict without the prefixes that training adds to names: `module.` on several GPUs, `_orig_mod.` if compiled.

    A part that was compiled by itself has `_orig_mod.` inside its names.
    """
    names = {name: name.removeprefix("_orig_mod.").replace("._orig_mod.", ".") for name in state_dict}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {name: short.removeprefix("module.").removeprefix("_orig_mod.") for name, short in names.items()}
    if len(set(names.values())) < len(names):  # two tensors would share a name; the loader reports it
        return state_dict
    return {names[name]: array for name, array in state_dict.items()}


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 digest in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_new(path: str | os.PathLike[str]) -> AnyPath:
    """The path of a new folder with links resolved, checked before the work that fills it.

    Raises:
      UserError: as `new_folder`.
    """
    path = any_path(path)
    with writing(path):
        if not isinstance(path, Path):
            if storage.exists(path):
                raise UserError(f"{path} exists already; choose a new name")
            return path
        place = Path(os.path.realpath(path))
        if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise UserError(f"{path} exists already; choose a new name")
        if place.exists() and (place.is_mount() or place.samefile(os.curdir)):
            what = "a mount point" if place.is_mount() else "the current folder"
            raise UserError(f"{path} is {what}, which cannot be replaced: give a folder inside it")
    return place


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[AnyPath]:
    """Yields a folder to fill, which is given its name when it is complete and is removed when anything fails.

    Where the name is a link, the folder is made at the link's target. Parent folders that were made for it are removed
    with it. In a bucket, which has no folders, it has its name from the beginning. In the meantime SIGTERM acts like
    Ctrl-C.

    Raises:
      UserError: something other than an empty folder has that name, or the folder cannot be written.
    """
    path = check_new(path)
    made = _renamed(path) if isinstance(path, Path) else _removed_unless_complete(path)
    with writing(path), _signals_to(signal.default_int_handler, signal.SIGTERM), made as folder:
        yield folder


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """`new_folder` on a disk."""
    partial = path.with_name(f".{path.name}.partial")
    made: list[Path] = []
    try:
        shutil.rmtree(partial, ignore_errors=True)
        made = [parent for parent in partial.parents if not parent.exists()]
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
        made = []
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


@contextlib.contextmanager
def _removed_unless_complete(path: epath.Path) -> Iterator[epath.Path]:
    """`new_folder` in a bucket."""
    try:
        yield path
    except BaseException:
        with contextlib.suppress(OSError):  # the error that ends it says more
            storage.remove_tree(path)
        raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Postpones the first SIGINT or SIGTERM until the `with` block is done; a second one is not postponed."""
    came: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, previous[number])

    with _signals_to(later, signal.SIGINT, signal.SIGTERM) as previous:
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def _signals_to(handler: _Handler, *numbers: int) -> Iterator[dict[int, _Handler | int]]:
    """Has `handler` receive these signals, and yields `{number: previous handler}`.

    Outside the main thread nothing is changed, since only the main thread receives signals.
    """
    of_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) or signal.SIG_DFL for number in numbers if of_main}
    try:
        yield previous
    finally:
        for number, old in previous.items():
            signal.signal(number, old)

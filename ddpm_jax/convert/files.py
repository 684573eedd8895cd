"""Tensors from files, without running anything that is in them, and folders that are whole or absent.

Read next: `torch_files.py`, `folders.py`.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors

from ddpm_jax.convert import pickles, torch_files
from ddpm_jax.errors import UserError, first_line, shortened, writing
from ddpm_jax.runtime.paths import local_path


def read_weights(path: Path) -> dict | list:
    """What a file of weights holds: `{name: array}`, or a list in which such dicts are.

    Raises:
      UserError: there is no such file, it cannot be read, it is damaged, or it holds more than tensors.
    """
    path = local_path(path)
    with reading(path):
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        path.open("rb").close()  # says why it cannot be, where a reader of weights does not
        try:
            return _safetensors(path) if path.suffix == ".safetensors" else torch_files.read(path)
        except (UserError, OSError):
            raise
        except pickles.UnknownNameError as error:
            raise UserError(
                f"{path} asks to run {shortened(error)}, and was not opened: weights need no code; take a safetensors "
                "file instead"
            ) from error
        except Exception as error:  # whatever a broken file comes to
            raise UserError(
                f"{path} is not a complete file of weights ({shortened(first_line(error), 120)}); fetch it again"
            ) from error


@contextlib.contextmanager
def reading(path):
    """Turns what the disk says into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or first_line(error)}") from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file."""
    with safetensors.safe_open(path, framework="np") as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
        except (AttributeError, safetensors.SafetensorError) as error:
            if isinstance(error, AttributeError) or "Dtype not understood" in str(error):
                raise UserError(f"{path} has numbers of an unknown kind ({error}); save it as float32") from error
            raise


def is_state_dict(value):
    """Whether this is `{name: array}`."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, np.ndarray) for name, item in value.items())
    )


def without_prefix(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The dict without what training puts before names: `module.` on several GPUs, `_orig_mod.` if compiled.

    A part that was compiled by itself has `_orig_mod.` within its names.
    """
    names = {name: name.removeprefix("_orig_mod.").replace("._orig_mod.", ".") for name in state_dict}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {name: short.removeprefix("module.").removeprefix("_orig_mod.") for name, short in names.items()}
    if len(set(names.values())) < len(names):  # two tensors of one name, which the loader then says
        return state_dict
    return {names[name]: array for name, array in state_dict.items()}


def sha256(path):
    """The file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_new(path: str | os.PathLike[str]) -> Path:
    """The place of a new folder, without links; raises the UserError of `new_folder` before the work that fills it."""
    path = local_path(path)
    place = Path(os.path.realpath(path))
    with writing(path):
        if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise UserError(f"--out={path}: there is something already; choose a new name")
        if place.exists() and (place.is_mount() or place.samefile(os.curdir)):
            what = "a mount point" if place.is_mount() else "the current folder"
            raise UserError(f"--out={path} is {what}, which nothing can take the place of: name a folder within it")
    return place


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a folder to fill, which takes its name when it is whole and vanishes when anything fails.

    Where the name is a link, what it leads to is made. What is made to hold the folder vanishes with it. SIGTERM is
    like Ctrl-C meanwhile.

    Raises:
      UserError: there is something of that name other than an empty folder, or it cannot be written.
    """
    path = check_new(path)
    partial, made = path.with_name(f".{path.name}.partial"), []
    with writing(path), _signals_to(signal.default_int_handler, signal.SIGTERM):
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
def undisturbed():
    """Puts the first SIGINT or SIGTERM off until what it surrounds is done; a second one is not put off."""
    came = []

    def later(number, frame):
        came.append(number)
        signal.signal(number, previous[number])

    with _signals_to(later, signal.SIGINT, signal.SIGTERM) as previous:
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def _signals_to(handler, *numbers):
    """Has these signals handled so, and yields the handlers before; outside the main thread there are no signals."""
    of_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) or signal.SIG_DFL for number in numbers if of_main}
    try:
        yield previous
    finally:
        for number, old in previous.items():
            signal.signal(number, old)

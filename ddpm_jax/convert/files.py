"""Tensors from files, without running anything that is in them: safetensors, and PyTorch's pickles.

A pickle is a program. Where torch is installed its reader takes the file with `weights_only`, which admits tensors and
plain containers alone; elsewhere `pickles.py` does. Read next: `pickles.py`.
"""

import contextlib
import hashlib
import importlib.util
import pickle
import re
import shutil
import signal
import threading
import zipfile

import numpy as np
import safetensors

from ddpm_jax.convert import pickles
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.paths import local_path


def read_weights(path):
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
            if path.suffix == ".safetensors":
                return _safetensors(path)
            _check_as_stored(path)
            return _torch(path) if importlib.util.find_spec("torch") else pickles.read(path)
        except (UserError, OSError):
            raise
        except Exception as error:  # whatever a broken file comes to
            raise UserError(f"{path} is no whole file of weights ({_reason(error)}); fetch it again") from error


@contextlib.contextmanager
def reading(path):
    """Turns what the disk says into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or first_line(error)}") from error


def _safetensors(path):
    """The tensors of a safetensors file."""
    with safetensors.safe_open(path, framework="np") as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        except AttributeError as error:
            raise UserError(f"{path} has numbers of an unknown kind ({error}); save it as float32") from error


def _check_as_stored(path):
    """Refuses an archive that is larger unpacked than packed before it fills the memory; torch packs nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise UserError(f"{path} is a compressed archive, which no file of PyTorch's is, and was not opened")


def _torch(path):
    """The content of a pickle by torch's own reader, the tensors of dicts as arrays."""
    import torch

    def as_array(value):
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().to(torch.float32).numpy() if value.is_floating_point() else value.numpy()

    def as_arrays(value):  # nothing deeper, which may have no end; `dict.items`, for a file may hide the dict's own
        return {key: as_array(item) for key, item in dict.items(value)} if isinstance(value, dict) else value

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise pickles.refusal(path, wanted[1]) from error
        raise
    return [as_arrays(item) for item in content] if isinstance(content, list | tuple) else as_arrays(content)


def _reason(error):
    """What an error says in one line, without torch's advice around it to open the file unguarded."""
    said = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return said[1] if said else first_line(error).partition(" In PyTorch 2.6")[0]


def is_state_dict(value):
    """Whether this is `{name: array}`."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, np.ndarray) for name, item in value.items())
    )


def without_prefix(state_dict):
    """The dict without the `module.` that training on several GPUs leaves before every name."""
    prefix = "module."
    if not all(name.startswith(prefix) for name in state_dict):
        return state_dict
    return {name.removeprefix(prefix): array for name, array in state_dict.items()}


def sha256(path):
    """The file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_new(path):
    """Raises the UserError of `new_folder` now, before the work that fills it."""
    path = local_path(path)
    with _writing(path):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(f"--out={path}: there is something already; choose a new name")


@contextlib.contextmanager
def new_folder(path):
    """Yields a folder to fill, which takes its name when it is whole and vanishes when anything fails.

    What is made to hold it vanishes with it. SIGTERM is like Ctrl-C meanwhile.

    Raises:
      UserError: there is something of that name, or it cannot be written.
    """
    check_new(path)
    path = local_path(path).absolute()
    partial, made = path.with_name(f".{path.name}.partial"), []
    with _writing(path), _signals_to(signal.default_int_handler, signal.SIGTERM):
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
def _writing(path):
    """Turns what the disk says into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or first_line(error)}") from error


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

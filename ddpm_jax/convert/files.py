"""Tensors from files, without running anything that is in them: safetensors, and PyTorch's pickles.

A pickle is a program. Where torch is installed its reader takes the file with `weights_only`, which admits tensors and
plain containers alone; elsewhere `pickles.py` does. Read next: `pickles.py`.
"""

import contextlib
import hashlib
import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import safetensors

from ddpm_jax.convert import pickles
from ddpm_jax.errors import UserError


def read_weights(path):
    """What a file of weights holds: `{name: array}`, or the containers around such dicts that a pickle has.

    Raises:
      UserError: there is no such file, it is damaged, or it holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return _torch(path) if importlib.util.find_spec("torch") else pickles.read(path)


def _safetensors(path):
    """The tensors of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
    except (safetensors.SafetensorError, TypeError) as error:
        raise UserError(f"{path} is no whole safetensors file ({_first_line(error)}); fetch it again") from error


def _torch(path):
    """The content of a pickle by torch's own reader, tensors as arrays."""
    import pickle

    import torch

    def as_arrays(value):
        if isinstance(value, torch.Tensor):
            return value.detach().to(torch.float32).numpy() if value.is_floating_point() else value.numpy()
        if isinstance(value, dict):
            return {key: as_arrays(item) for key, item in value.items()}
        return [as_arrays(item) for item in value] if isinstance(value, list | tuple) else value

    try:
        return as_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        raise pickles.refusal(path, wanted and wanted[1]) from error
    except Exception as error:  # whatever a broken file comes to
        raise UserError(f"{path} is no whole PyTorch file ({_first_line(error)}); fetch it again") from error


def is_state_dict(value):
    """Whether this is `{name: array}`."""
    return isinstance(value, dict) and bool(value) and all(isinstance(item, np.ndarray) for item in value.values())


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


@contextlib.contextmanager
def new_folder(path):
    """Yields a folder to fill, which takes its name when it is whole and vanishes when anything fails.

    Raises:
      UserError: there is something of that name, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"--out={path}: there is something already; choose a new name")
    partial = path.absolute().with_name(f".{path.absolute().name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _first_line(error):
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

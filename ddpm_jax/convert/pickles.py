"""A reader of PyTorch's files that admits tensors alone, for where torch is not installed.

Since torch 1.6 a file is a zip archive: `data.pkl`, a pickle that may call functions by their names, and the numbers
of each tensor in a member of its own. This reader knows the three functions that rebuild tensors and dicts; any other
name ends it before anything is called.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import UserError

_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


def refusal(path, wanted=None):
    """The error for a pickle that asks for more than tensors."""
    asks = f"asks to run {wanted}" if wanted else "holds more than tensors"
    return UserError(f"{path} {asks}, and was not opened: weights need no code; take a safetensors file instead")


def read(path):
    """The content of a file of torch 1.6 or later, tensors as arrays.

    Raises:
      UserError: the file is older, damaged, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise UserError(f"{path} is an archive without weights")
            return _Reader(path, archive, pickled).load()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is damaged, or older than torch 1.6: fetch it again, or install torch, which reads both"
        ) from error
    except UserError:
        raise
    except Exception as error:  # whatever a broken pickle comes to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path} is no whole PyTorch file of weights ({reason}); fetch it again") from error


class _Reader(pickle.Unpickler):
    """An unpickler that finds nothing but what tensors are made of."""

    def __init__(self, path, archive, pickled):
        super().__init__(io.BytesIO(archive.read(pickled)))
        self._path, self._archive, self._folder, self._storages = path, archive, pickled.removesuffix("data.pkl"), {}

    def find_class(self, module, name):
        """The admitted functions by their names."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) not in known:
            raise refusal(self._path, f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid):
        """A storage: its numbers as a vector."""
        _, dtype, key, *_ = pid
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), np.dtype(dtype))
        return self._storages[key]


def _tensor(storage, offset, size, stride, *unused):
    """The tensor of that size and those strides, in numbers, within a storage."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor without a size")
    if math.prod(size) and last >= storage.size:
        raise ValueError("a tensor that is larger than its numbers")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _parameter(tensor, *unused):
    """A parameter is its tensor."""
    return tensor

"""A reader of PyTorch's files that admits tensors alone, for where torch is not installed.

Since torch 1.6 a file is a zip archive: `data.pkl`, a pickle that may call functions by their names, and the numbers
of each tensor in a member of its own. This reader knows the three functions that rebuild tensors and dicts; any other
name ends it before anything is called. A pickle may also set attributes of what it gets: it gets tuples, which have
none.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError


class _DType(NamedTuple):
    """The kind of a storage's numbers."""

    name: str


class _Storage(NamedTuple):
    """Numbers `[N]`, which tensors are views of."""

    numbers: np.ndarray


class _Function(NamedTuple):
    """A function that a pickle may call."""

    function: Callable

    def __call__(self, *args):
        """The function's result."""
        return self.function(*args)


class _Dict(dict):
    """A dict on which a pickle can set nothing."""

    __slots__ = ()

    def __setstate__(self, state):
        """Leaves out torch's notes on the modules."""


_DTYPES = {
    "DoubleStorage": _DType("<f8"),
    "FloatStorage": _DType("<f4"),
    "HalfStorage": _DType("<f2"),
    "BFloat16Storage": _DType("bfloat16"),
    "LongStorage": _DType("<i8"),
    "IntStorage": _DType("<i4"),
    "ShortStorage": _DType("<i2"),
    "CharStorage": _DType("<i1"),
    "ByteStorage": _DType("<u1"),
    "BoolStorage": _DType("?"),
}


def refusal(path, wanted):
    """The error for a pickle that asks for more than tensors."""
    return UserError(
        f"{path} asks to run {wanted}, and was not opened: weights need no code; take a safetensors file instead"
    )


def read(path):
    """The content of a file of torch 1.6 or later, tensors as arrays.

    Raises:
      UserError: the file is older, or holds more than tensors.
      Exception: whatever a damaged file comes to.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is damaged, or older than torch 1.6: fetch it again, or install torch, which reads both"
        )
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise UserError(f"{path} is an archive without weights")
        return _Reader(path, archive, pickled).load()


class _Reader(pickle.Unpickler):
    """An unpickler that finds nothing but what tensors are made of."""

    def __init__(self, path, archive, pickled):
        super().__init__(io.BytesIO(archive.read(pickled)))
        self._path, self._archive, self._folder, self._storages = path, archive, pickled.removesuffix("data.pkl"), {}

    def find_class(self, module, name):
        """The admitted functions and kinds of numbers by their names."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _KNOWN:
            raise refusal(self._path, f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid):
        """The `_Storage` of that name."""
        _, dtype, key, *_ = pid
        if type(dtype) is not _DType:
            raise ValueError("numbers of no known kind")
        if key not in self._storages:
            numbers = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), np.dtype(dtype.name))
            self._storages[key] = _Storage(numbers)
        return self._storages[key]


def _tensor(storage, offset, size, stride, *unused):
    """The tensor of that size and those strides, in numbers, within a storage."""
    if type(storage) is not _Storage:
        raise ValueError("a tensor without numbers")
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor without a size")
    numbers = storage.numbers
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= numbers.size:
        raise ValueError("a tensor that is larger than its numbers")
    strides = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, strides, writeable=False)


def _parameter(tensor, *unused):
    """A parameter is its tensor."""
    return tensor


_KNOWN = {
    ("collections", "OrderedDict"): _Function(_Dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
}

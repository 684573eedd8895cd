"""Reading of tensors from PyTorch's files, without torch.

Since torch 1.6 a file is a zip archive: it holds `data.pkl`, a pickle, and the numbers of each storage in a separate
member, whose checksum is verified. In earlier versions a file is five pickles one after another (a magic number, a
version, the machine's byte order and sizes, the content, the names of the storages), followed by the numbers of the
storages. Tensors are views of storages. Read next: `files.py`.
"""

import io
import math
import mmap
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.convert import pickles
from ddpm_jax.convert.pickles import Function
from ddpm_jax.errors import UserError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MOST_AXES = 32
# All tensors together may take `_VIEWS * (size of the file) + _FREE` bytes.
_VIEWS = 4
_FREE = 10_000


class _DType(NamedTuple):
    """The dtype of a storage's numbers."""

    dtype: np.dtype


class _Storage(NamedTuple):
    """Numbers `[N]` that tensors are views of."""

    numbers: np.ndarray


_DTYPES: dict[str, _DType] = {
    "DoubleStorage": _DType(np.dtype("<f8")),
    "FloatStorage": _DType(np.dtype("<f4")),
    "HalfStorage": _DType(np.dtype("<f2")),
    "BFloat16Storage": _DType(np.dtype(jnp.bfloat16)),
    "LongStorage": _DType(np.dtype("<i8")),
    "IntStorage": _DType(np.dtype("<i4")),
    "ShortStorage": _DType(np.dtype("<i2")),
    "CharStorage": _DType(np.dtype("<i1")),
    "ByteStorage": _DType(np.dtype("<u1")),
    "BoolStorage": _DType(np.dtype("?")),
    "UntypedStorage": _DType(np.dtype("<u1")),
}
_KINDS = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def read(path: Path) -> Any:
    """The content of a PyTorch file, in which tensors become NumPy arrays.

    Raises:
      UserError: the file has neither of the two formats.
      pickles.UnknownNameError: it asks for more than tensors.
      Exception: a damaged file may raise any.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return _read_archive(path)
    if start[:1] == b"\x80":
        return _read_pickles(path)
    raise UserError(f"{path} is damaged or is not a PyTorch file: download it again")


def _read_archive(path: Path) -> Any:
    """The content of a file that torch 1.6 or later wrote."""
    with zipfile.ZipFile(path) as archive:
        _check_as_stored(path, archive)
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise UserError(f"{path} is an archive without weights")
        folder, storages = pickled.removesuffix("data.pkl"), {}
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("numbers in another byte order")

        def stored(name: tuple[Any, ...]) -> _Storage:
            dtype, key, _ = _named(name)
            if key not in storages:
                storages[key] = _Storage(np.frombuffer(archive.read(f"{folder}data/{key}"), dtype))
            return _of_kind(storages[key], dtype)

        return pickles.load(io.BytesIO(archive.read(pickled)), names=_names(path), stored=stored)


def _check_as_stored(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises a UserError for an archive that would grow when unpacked; torch compresses nothing."""
    members = archive.infolist()
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise UserError(f"{path} is a compressed archive, which PyTorch never writes, so it was not opened")


def _read_pickles(path: Path) -> Any:
    """The content of a file from before torch 1.6, in which the numbers follow the tensors that are views of them."""
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        storages: dict[str, _Storage] = {}
        left = len(file)

        def stored(name: tuple[Any, ...]) -> _Storage:
            nonlocal left
            dtype, key, count = _named(name)
            if key not in storages:
                left -= count * dtype.itemsize
                if left < 0:
                    raise ValueError("more numbers than the file has")
                storages[key] = _Storage(np.empty(count, dtype))
            return _of_kind(storages[key], dtype)

        start = [pickles.load(file, names={}, stored=stored) for _ in range(3)]
        if start[:2] != [_MAGIC, _VERSION]:
            raise UserError(f"{path} is damaged or is not a PyTorch file: download it again")
        if not isinstance(start[2], dict) or start[2].get("little_endian") is not True:
            raise ValueError("numbers in another byte order")
        content = pickles.load(file, names=_names(path), stored=stored)
        keys = pickles.load(file, names={}, stored=stored)
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise ValueError("other storages than those of the tensors")
        for key in keys:
            numbers = storages[key].numbers
            if int.from_bytes(file.read(8), "little") != numbers.size:
                raise ValueError("a storage of another size than its tensors'")
            numbers[:] = np.frombuffer(file.read(numbers.nbytes), numbers.dtype)
        return content


def _named(name: tuple[Any, ...]) -> tuple[np.dtype, str, int]:
    """The dtype, the key and the count of a storage's numbers, from its persistent id."""
    kind, dtype, key, _, count, *view = name
    if kind != "storage" or type(dtype) is not _DType or view not in ([], [None]):
        raise ValueError("numbers of an unknown type")
    if type(key) is not str or type(count) is not int or count < 0:
        raise ValueError("numbers without a name")
    return dtype.dtype, key, count


def _of_kind(storage: _Storage, dtype: np.dtype) -> _Storage:
    """The storage, whose numbers must have that dtype."""
    if storage.numbers.dtype != dtype:
        raise ValueError("numbers of two types in one storage")
    return storage


def _names(path: Path) -> dict[str, Any]:
    """What the pickle of one file may name; the file's size bounds that of its tensors."""
    tensor = Function(_Views(_VIEWS * path.stat().st_size + _FREE))
    same = Function(lambda value, *unused: value)
    return {
        "collections.OrderedDict": Function(_dict),
        "collections.Counter": Function(_dict),
        "torch.Size": same,
        "torch.device": same,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": same,
        **{f"torch.{name}": kind for name, kind in _DTYPES.items()},
        "torch.storage.UntypedStorage": _DTYPES["UntypedStorage"],
        **dict.fromkeys([f"torch.{name}" for name in _KINDS]),
    }


def _dict(content: dict[Any, Any] | None = None) -> dict[Any, Any]:
    """The dict itself, not a copy, or a new one where none is given."""
    if not isinstance(content, dict | None):
        raise ValueError("a dict of something else")
    return {} if content is None else content


class _Views:
    """Makes tensors as views of storages.

    Args:
      bytes_left: the most bytes that all tensors together may have, so that a small file cannot fill the memory.
    """

    def __init__(self, bytes_left: int) -> None:
        self._left = bytes_left

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> np.ndarray:
        """The tensor with that offset, size and stride, all counted in numbers, within a storage.

        The arguments come from the file and are checked here.
        """
        if type(storage) is not _Storage:
            raise ValueError("a tensor without numbers")
        numbers = storage.numbers
        if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= _MOST_AXES:
            raise ValueError("a tensor without a size")
        if not all(type(number) is int and 0 <= number <= 2**40 for number in (offset, *size, *stride)):
            raise ValueError("a tensor without a size")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        count = math.prod(size)
        self._left -= count * numbers.itemsize
        if count > numbers.size or (count and last >= numbers.size) or self._left < 0:
            raise ValueError("a tensor that is larger than its numbers")
        strides = [step * numbers.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(numbers[offset:], size, strides, writeable=False)

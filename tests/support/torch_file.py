"""Files in PyTorch's form, instruction by instruction, for tests of their reader."""

import pickle
import zipfile
from pathlib import Path

import numpy as np

FLOATS, TENSOR = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"


def archive(path: Path, pickled: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file in torch's form around a pickle and a storage of four numbers."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", np.arange(1, 5, dtype="<f4").tobytes())
        file.writestr("archive/version", "3\n")
    return path


def before_1_6(path: Path, pickled: bytes, *, counts: tuple[int, ...] = (4,), little_endian: bool = True) -> Path:
    """A file in the form of torch before 1.6 around a pickle and storages of four numbers, of these stated sizes."""
    keys = [str(i) for i in range(len(counts))]
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian}]
    content = b"".join(pickle.dumps(part, protocol=2) for part in parts) + pickled + pickle.dumps(keys, protocol=2)
    numbers = np.arange(1, 5, dtype="<f4").tobytes()
    path.write_bytes(content + b"".join(count.to_bytes(8, "little") + numbers for count in counts))
    return path


def code(value: object) -> bytes:
    """The instructions of a pickle that make a value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def program(*instructions: bytes) -> bytes:
    """The pickle of these instructions."""
    return b"\x80\x02" + b"".join(instructions) + b"."


def storage(kind: bytes = FLOATS, *, count: int = 4, old: bool = False) -> bytes:
    """The instructions for the four numbers."""
    view = code(None) if old else b""
    return b"(" + code("storage") + kind + code("0") + code("cpu") + code(count) + view + b"tQ"


def tensor(numbers: bytes, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> bytes:
    """The instructions for a tensor of these numbers."""
    return TENSOR + b"(" + numbers + code(0) + code(size) + code(stride) + code(False) + code({}) + b"tR"


def dict_of(name: object, instructions: bytes) -> bytes:
    """The instructions for a dict."""
    return b"}" + code(name) + instructions + b"s"

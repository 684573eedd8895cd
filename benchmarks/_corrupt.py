"""Damage to bytes and to JSON, such as a disk, a cable, an interrupted copy or an attacker does to a file."""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

Rng: TypeAlias = np.random.Generator
"""The source of all random choices of the damage."""

_EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x10", b"\x10\0\0\0")


def flipped_bit(data: bytes, rng: Rng) -> bytes:
    """One bit is flipped."""
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def changed_byte(data: bytes, rng: Rng) -> bytes:
    """One byte has another value."""
    at = _place(data, rng)
    return data[:at] + bytes([(data[at] + int(rng.integers(1, 256))) % 256]) + data[at + 1 :]


def truncated(data: bytes, rng: Rng) -> bytes:
    """The end is missing."""
    return data[: int(rng.integers(len(data)))]


def zeroed_block(data: bytes, rng: Rng) -> bytes:
    """A range of bytes is zero, as in a file whose blocks were never written."""
    begin, end = _stretch(data, rng)
    return data[:begin] + bytes(end - begin) + data[end:]


def swapped_blocks(data: bytes, rng: Rng) -> bytes:
    """Two ranges of bytes of equal length are exchanged."""
    length = max(1, min(len(data) // 4, int(rng.integers(1, 4097))))
    one = int(rng.integers(0, len(data) - 2 * length + 1)) if len(data) >= 2 * length else 0
    other = int(rng.integers(one + length, len(data) - length + 1)) if len(data) >= one + 2 * length else one
    left, right = data[one : one + length], data[other : other + length]
    return data[:one] + right + data[one + length : other] + left + data[other + length :] if other > one else data


def extreme_number(data: bytes, rng: Rng) -> bytes:
    """Four bytes become a number that no length, size or offset should have."""
    at = _place(data, rng)
    return data[:at] + _EXTREMES[int(rng.integers(len(_EXTREMES)))] + data[at + 4 :]


def removed_block(data: bytes, rng: Rng) -> bytes:
    """A range of bytes is missing."""
    begin, end = _stretch(data, rng)
    return data[:begin] + data[end:]


def repeated_block(data: bytes, rng: Rng) -> bytes:
    """A range of bytes is repeated."""
    begin, end = _stretch(data, rng)
    return data[:end] + data[begin:]


def random_bytes(data: bytes, rng: Rng) -> bytes:
    """A few bytes, up to 16, are replaced by random ones."""
    at = _place(data, rng)
    length = min(int(rng.integers(1, 17)), len(data) - at)
    return data[:at] + rng.bytes(length) + data[at + length :]


BYTES: dict[str, Callable[[bytes, Rng], bytes]] = {
    function.__name__.replace("_", " "): function
    for function in (
        flipped_bit,
        changed_byte,
        truncated,
        zeroed_block,
        swapped_blocks,
        extreme_number,
        removed_block,
        repeated_block,
        random_bytes,
    )
}


def corrupted(data: bytes, rng: Rng, *, times: int = 1) -> bytes:
    """The bytes after `times` kinds of damage, each drawn from `BYTES`."""
    for _ in range(times):
        if data:
            data = BYTES[str(rng.choice(list(BYTES)))](data, rng)
    return data


def corrupted_json(text: str, rng: Rng) -> str:
    """JSON in which one value, anywhere, is replaced by another value or removed; the text is still valid JSON."""
    tree = json.loads(text)
    deep = json.loads("[" * 50 + "]" * 50)
    values = [None, True, -1, 0, 1, 10**12, 1e308, "", "x" * 300, "../../../etc/passwd", [], {}, [1, 2], deep]
    places = list(_places(tree))
    if places:
        holder, key = places[int(rng.integers(len(places)))]
        if rng.integers(8) == 0 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = values[int(rng.integers(len(values)))]
    return json.dumps(tree)


def _places(tree: Any) -> Iterator[tuple[dict[str, Any] | list[Any], Any]]:
    """Yields `(dict or list, key or index)` for all values of a JSON tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


def _place(data: bytes, rng: Rng) -> int:
    """A random position, in half of the cases near one of the ends, where headers and tables are."""
    near = min(len(data), int(2 ** rng.uniform(3, 13)))
    at = int(rng.integers(near if rng.integers(2) else len(data)))
    return len(data) - 1 - at if rng.integers(4) == 0 else at


def _stretch(data: bytes, rng: Rng) -> tuple[int, int]:
    """Begin and end of a random range of up to 4,096 bytes."""
    begin = _place(data, rng)
    return begin, min(len(data), begin + int(rng.integers(1, 4097)))

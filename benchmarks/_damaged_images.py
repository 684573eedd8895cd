"""Damaged images of every format that `ImageFolder` reads, for `damage.py`."""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from _corrupt import Rng, corrupted
from _pool import Outcome, Task, outcome_of
from PIL import Image

from ddpm_jax.data import ImageFolder

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
WIDTH, HEIGHT = 26, 19
OPTIONS: dict[str, list[dict[str, Any]]] = {  # of each format, beside its defaults
    "TIFF": [{"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")],
    "JPEG": [{"progressive": True}, {"subsampling": 0, "quality": 95}],
    "WEBP": [{"lossless": True}],
    "PNG": [{"optimize": True}],
    "GIF": [{"interlace": 0}],
}


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Whole images by suffix: every suffix that `ImageFolder` takes and Pillow writes, in every mode."""
    Image.init()
    written = {
        suffix: file_format
        for suffix, file_format in Image.registered_extensions().items()
        if file_format in Image.SAVE
    }
    for number, suffix in enumerate(written):
        (folder / f"{number}{suffix}").write_bytes(b"?")
    taken = sorted({Path(path).suffix for path in ImageFolder(folder, size=8).paths})
    with _silence():
        return {suffix: _files(written[suffix]) for suffix in taken}


def _files(file_format: str) -> list[bytes]:
    """One picture in one format, in all the ways in which Pillow writes it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = Image.fromarray(np.stack([9 * x, 13 * y, 5 * x + 7 * y, 255 - 3 * x], -1).astype(np.uint8))
    files = []
    for mode in MODES:
        image = picture.convert("L").convert(mode) if mode in ("I;16", "I", "F") else picture.convert(mode)
        several = {"save_all": True, "append_images": [image.rotate(180)]}
        for options in [{}, several, *OPTIONS.get(file_format, [])]:
            buffer = io.BytesIO()
            try:
                image.save(buffer, file_format, **options)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # the format has no such mode
            files.append(buffer.getvalue())
    return sorted(set(files))


def task(seed: int, whole: dict[str, list[bytes]], folder: Path) -> Task:
    """A task that damages an image by its number and opens it as training does."""

    def opened(number: int) -> Outcome:
        rng = np.random.default_rng((seed, number))
        suffix = str(rng.choice(list(whole)))
        data = whole[suffix][int(rng.integers(len(whole[suffix])))]
        bad = _resized(data, rng) if rng.integers(8) == 0 else corrupted(data, rng, times=int(rng.integers(1, 4)))
        if "png" in suffix and rng.integers(2):
            bad = _with_checksums(bad)
        place = folder / f"images_{os.getpid()}"
        place.mkdir(exist_ok=True)
        for old in place.iterdir():
            old.unlink()
        (place / f"image{suffix}").write_bytes(bad)

        def load() -> None:
            example = ImageFolder(place, size=8, channels=3 if number % 2 else 1)[0]
            if example["image"].dtype != np.uint8 or example["image"].shape != (8, 8, 3 if number % 2 else 1):
                raise ValueError(f"an image of {example['image'].shape} {example['image'].dtype}")

        return outcome_of(suffix, load)

    return opened


def _resized(data: bytes, rng: Rng) -> bytes:
    """The file with another width or height wherever that is written: about as many pixels as Pillow opens."""
    one, other = (WIDTH, HEIGHT) if rng.integers(2) else (HEIGHT, WIDTH)
    orders: tuple[Literal["big"], Literal["little"]] = ("big", "little")
    forms = [(width, order) for width in (4, 2) for order in orders if one.to_bytes(width, order) in data]
    if not forms:
        return corrupted(data, rng)
    width, order = forms[int(rng.integers(len(forms)))]
    assert Image.MAX_IMAGE_PIXELS is not None, "Pillow has a limit by default"
    thin, pixels = bool(rng.integers(2)), int(rng.uniform(0.3, 1.3) * 2 * Image.MAX_IMAGE_PIXELS)
    larger = min(pixels // (1 if thin else other), 256**width - 1)
    if thin:
        data = data.replace(other.to_bytes(width, order), (1).to_bytes(width, order))
    return data.replace(one.to_bytes(width, order), larger.to_bytes(width, order))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses what libraries in C write about combinations that a format does not support."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _with_checksums(data: bytes) -> bytes:
    """A damaged PNG with corrected checksums, so that they do not reveal the damage."""
    at, out = 8, data[:8]
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at : at + 8 + length] + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + data[at:]

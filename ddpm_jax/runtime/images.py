"""Pictures: from arrays in [-1, 1] to 8 bits and back, grids, PNG and GIF files that are complete or absent."""

import math
import os

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_whole

PICTURED = (1, 3)
"""The numbers of channels that a picture can show: grey and colour."""


def to_uint8(x: ArrayLike) -> np.ndarray:
    """Converts images in [-1, 1] to 8 bits, `u = round((x + 1) * 127.5)`; `from_uint8` is its inverse.

    Args:
      x: values of any shape; those outside [-1, 1] are clipped.

    Returns:
      uint8 of the same shape.

    Raises:
      UserError: the images are uint8 already, or a value is not finite, which would silently become some pixel.
    """
    if np.asarray(x).dtype == np.uint8:
        raise UserError("the images are uint8 already: to_uint8 is for images in [-1, 1]")
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise UserError(
            "the images contain numbers that are not finite: the network or the chain diverged; use other weights "
            "(params, an earlier checkpoint), more steps (num_steps) or a smaller guidance scale"
        )
    return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(images: ArrayLike) -> np.ndarray:
    """Converts images of 8 bits to float32 in [-1, 1], `x = u / 127.5 - 1`.

    Raises:
      UserError: they are not integers.
    """
    if not np.issubdtype(np.asarray(images).dtype, np.integer):
        raise UserError(f"from_uint8 is for images of whole numbers from 0 to 255, not {np.asarray(images).dtype}")
    return np.asarray(images, np.float32) / 127.5 - 1


def enlargement(height: int) -> int:
    """The whole factor by which pictures show an image of this height: the smallest with which it has 64 pixels."""
    return max(1, math.ceil(64 / height))


def tile_images(images: np.ndarray, *, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Tiles images `[N, H, W, C]` uint8 row by row on white, in a nearly square grid unless `columns` is given.

    Small images, and the gap, are enlarged by a whole factor (`enlargement`) until a tile is at least 64 pixels high.

    Returns:
      `[H', W', C]` uint8.
    """
    num, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows, zoom = math.ceil(num / columns), enlargement(height)
    height, width, gap = height * zoom, width * zoom, gap * zoom
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(images.repeat(zoom, 1).repeat(zoom, 2)):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def check_pictured(channels: int, *, otherwise: str) -> None:
    """Raises a `UserError` if no picture file can show images of so many channels.

    Args:
      channels: C.
      otherwise: what to do with such images, as the end of the message.
    """
    if channels not in PICTURED:
        raise UserError(f"a picture has 1 channel (grey) or 3 (colour), and the images have {channels}: {otherwise}")


def picture(images: ArrayLike, *, columns: int | None = None) -> Image.Image:
    """The grid of images `[N, H, W, C]`, uint8 or in [-1, 1], as a `PIL.Image`, which a notebook shows.

    Raises:
      UserError: the images are not `[N, H, W, 1]` or `[N, H, W, 3]`.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in PICTURED or not images.size:
        raise UserError(f"a picture shows images [N, H, W, 1 or 3], and their shape is {list(images.shape)}")
    return _pil(tile_images(images if images.dtype == np.uint8 else to_uint8(images), columns=columns))


def _pil(image: np.ndarray) -> Image.Image:
    """One image `[H, W, C]` uint8, C = 1 or 3, as a `PIL.Image`."""
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes one image `[H, W, C]` uint8, C = 1 or 3, as a PNG file."""
    write_whole(any_path(path), _pil(image).save)


def save_gif(path: str | os.PathLike[str], frames: np.ndarray, *, seconds: float = 4.0, hold: float = 1.5) -> None:
    """Writes frames `[N, H, W, C]` uint8 as a GIF that runs for `seconds` and then holds the last frame for `hold`."""
    pictures = [_pil(frame) for frame in frames]
    durations = [max(20, round(1000 * seconds / len(pictures)))] * (len(pictures) - 1) + [round(1000 * hold)]
    write_whole(
        any_path(path),
        lambda temporary: pictures[0].save(
            temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0
        ),
    )

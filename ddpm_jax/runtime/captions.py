"""Words above pictures, pictures side by side, and the hatching of a part that is missing."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm_jax.errors import one_line
from ddpm_jax.runtime.images import enlargement

HEIGHT = 22
"""Height of a line of words, in pixels."""
_SIZE, _INK, _GAP = 14, 34, 24
_STRIPES = 120, 165  # the greys of the hatching, which no digit of black and white has over a whole part
_WIDTH = 8  # of a stripe


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of Pillow itself, which needs no file of the machine."""
    return ImageFont.load_default(_SIZE)


def width_of(words: str) -> int:
    """The width of words in pixels, rounded up."""
    return int(np.ceil(_font().getlength(one_line(words))))


def shortened_to(words: str, width: int) -> str:
    """Words in one line that are at most `width` pixels wide: the end is replaced by dots where they are wider."""
    words = kept = one_line(words)
    while kept and width_of(words) > width:
        kept = kept[:-1]
        words = f"{kept}..."
    return words if kept else ""


def headed(picture: np.ndarray, headings: Sequence[tuple[str, float, float]]) -> np.ndarray:
    """A picture `[H, W, C]` uint8 below a white line of words, `[HEIGHT + H, W, C]`.

    Args:
      picture: the picture.
      headings: words, and the left and right end of their place in pixels; they are centred in it, and shortened to it.
    """
    line = Image.new("L", (picture.shape[1], HEIGHT), 255)
    drawing = ImageDraw.Draw(line)
    for words, left, right in headings:
        fitting = shortened_to(words, int(right - left))
        drawing.text(((left + right) / 2, HEIGHT / 2), fitting, fill=_INK, font=_font(), anchor="mm")
    return np.concatenate([np.repeat(np.asarray(line)[..., None], picture.shape[2], axis=2), picture])


def column_heads(grid: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A grid of `tile_images`, `[H, W, C]` uint8, with a name above each of its columns."""
    step = grid.shape[1] / len(names)
    return headed(grid, [(name, i * step, (i + 1) * step) for i, name in enumerate(names)])


def beside(blocks: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures `[H, W, C]` uint8 from left to right on white, the name of each above it.

    Args:
      blocks: names and pictures, of the same number of channels; a picture that is narrower than its name gets white
        at both sides.
    """
    height, channels = max(picture.shape[0] for _, picture in blocks), blocks[0][1].shape[2]
    parts = []
    for i, (name, picture) in enumerate(blocks):
        lacking = max(0, width_of(name) - picture.shape[1])
        sides = (lacking // 2 + (_GAP if i else 0), lacking - lacking // 2)
        placed = np.pad(picture, ((0, height - picture.shape[0]), sides, (0, 0)), constant_values=255)
        parts.append(headed(placed, [(name, _GAP if i else 0, placed.shape[1])]))
    return np.concatenate(parts, axis=1).reshape(HEIGHT + height, -1, channels)


def hatched(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """An image whose unknown part is hatched in two greys, enlarged as `tile_images` enlarges it.

    Args:
      image: `[H, W, C]` uint8.
      known: `[H, W, 1]`, 1 where the image is known and 0 where it is not.

    Returns:
      `[zoom H, zoom W, C]` uint8.
    """
    zoom = enlargement(image.shape[0])
    image, known = (x.repeat(zoom, 0).repeat(zoom, 1) for x in (image, known))
    rows, columns = np.indices(image.shape[:2])
    stripes = np.array(_STRIPES, np.uint8)[(rows + columns) // _WIDTH % 2]
    return np.where(known > 0.5, image, stripes[..., None]).astype(np.uint8)

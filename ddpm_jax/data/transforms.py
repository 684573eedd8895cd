"""From the bytes of an image file to the uint8 array that a source returns: pure functions of one image.

`decode` brings every format of `formats.py` to upright 8-bit grey or RGB; `crop_and_resize` cuts a square out
of it and scales it. The random part (the flip) happens in the train step instead.

Read next: `encoded.py`, which applies both to every image of a data set.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFile, ImageOps

from ddpm_jax.data.formats import UnreadableImageError, opened

_FULL_RANGES = tuple(2**bits - 1 for bits in range(8, 16))  # largest samples where fewer bits are used than stored
_STRIP = 2**20  # pixels that are converted at a time, where a conversion needs copies of the image

Square: TypeAlias = tuple[int, int, int, int]
"""A square part of an image, (left, top, right, bottom) in pixels, right and bottom exclusive."""


def decode(data: bytes) -> Image.Image:
    """Decodes an image file into upright 8-bit grey ("L") or colour ("RGB").

    Of an animation it takes the first frame. The EXIF orientation is applied, samples v of n > 8 bits become
    round(255 v / (2^n - 1)), and transparent pixels show a white background.

    Args:
      data: the file's bytes, in any format of `formats.py`.

    Returns:
      A `PIL.Image.Image` of mode "L" or "RGB".

    Raises:
      UnreadableImageError: the data is not an image, is damaged, has too many pixels, or has samples whose range is
        not defined.
    """
    with opened(data) as image:
        return to_8_bits(image)


def to_8_bits(image: ImageFile.ImageFile) -> Image.Image:
    """Decodes an image that has just been opened; as `decode`."""
    white = _white(image)
    transparent = _transparent_sample(image)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if white is not None:
        return _in_strips(image, "L", lambda strip: _scaled(strip, white, transparent))
    if image.has_transparency_data:
        if transparent is not None:
            image.info["transparency"] = transparent
        return _in_strips(image, "RGB", _on_white)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def crop_and_resize(image: Image.Image, *, size: int, channels: int, crop: Square | None = None) -> np.ndarray:
    """Cuts a square out of an image and scales it to `[size, size, channels]`.

    The scaling is Pillow's BILINEAR: a triangle filter whose width grows with the reduction, so that there is no
    aliasing. torchvision's `Resize` does the same to CelebA and LSUN in the code of Song et al. 2021 (DDIM). A
    square that already has the size is kept bit for bit.

    Args:
      image: a `PIL.Image.Image` of mode "L" or "RGB".
      size: the side of the result in pixels.
      channels: 1 for grey (ITU-R 601 luma), 3 for RGB.
      crop: the `Square` to use; None for the largest in the centre.

    Returns:
      uint8 `[size, size, channels]`.

    Raises:
      UnreadableImageError: the square does not lie inside the image.
    """
    width, height = image.size
    left, top, right, bottom = square = crop or _centre_square(width, height)
    if right > width or bottom > height:
        raise UnreadableImageError(f"its {width}x{height} pixels do not contain the crop {square}")
    # Cropped first: with resize(box=...) the filter would also use pixels outside the square. Copied only if necessary.
    if (left, top, right, bottom) != (0, 0, width, height):
        image = image.crop((left, top, right, bottom))
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    array = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return array.reshape(size, size, channels)


def _centre_square(width: int, height: int) -> Square:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _white(image: Image.Image) -> int | None:
    """The sample that means white in a grey image of more than 8 bits, negative if 0 is white; None for other images.

    Raises:
      UnreadableImageError: the header does not determine the range of the samples.
    """
    tags = getattr(image, "tag_v2", {})  # the tags of a TIFF
    bits, kind, photometric = (_first(tags.get(tag)) for tag in (258, 339, 262))
    unclear = None
    if image.mode == "F":
        unclear = "floating-point"
    elif kind == 2:
        unclear = f"signed {bits}-bit"
    elif image.mode == "I" and image.format == "TIFF":
        unclear = "32-bit"
    if unclear:
        raise UnreadableImageError(f"{unclear} samples have no standard range; store it with 8 or 16 unsigned bits")
    deep = image.mode == "I" or image.mode.startswith("I;16")
    declared = _first(tags.get(281)) if bits == 16 else None  # MaxSampleValue: a statistic, unless it fills the bits
    white = 4095 if bits == 12 else next((full for full in _FULL_RANGES if full == declared), 65535)
    if not deep and white < 65535:
        raise UnreadableImageError(f"its colour values reach only {white} of 65535; store it with 8 bits or all 16")
    return (-white if photometric == 0 else white) if deep else None


def _first(values: object) -> object:
    """The first of a TIFF tag's values, which may be a tuple, a single value or None."""
    return values[0] if isinstance(values, tuple) and values else values


def _transparent_sample(image: ImageFile.ImageFile) -> int | None:
    """The grey level of a PNG that is transparent, on the scale of the decoded pixels; None if there is none.

    Raises:
      UnreadableImageError: it is a colour of 16 bits, of which the decoded pixels keep only 8.
    """
    level = image.info.get("transparency")
    if image.format != "PNG" or isinstance(level, bytes) or level is None or image.mode == "P" or not image.tile:
        return None
    rawmode = image.tile[0][3]
    assert isinstance(rawmode, str), "the argument of the decoder of a PNG"
    if isinstance(level, tuple):
        if rawmode == "RGB;16B":
            raise UnreadableImageError("one of its 16-bit colours is transparent; store it with an alpha channel")
        return None
    if image.mode != "L":
        return level
    most = 2 ** int(rawmode.partition(";")[2] or 8) - 1
    return (level & most) * 255 // most


def _scaled(strip: Image.Image, white: int, transparent: int | None) -> Image.Image:
    """Scales grey samples of more than 8 bits to 8 bits; raises an `UnreadableImageError` if one exceeds white."""
    samples, most = np.asarray(strip).astype(np.int64), abs(white)
    if samples.max() > most:
        raise UnreadableImageError(f"its largest sample is {samples.max()}, but its header allows {most}")
    grey = (samples * 255 + most // 2) // most
    grey = 255 - grey if white < 0 else grey
    if transparent is not None:
        grey[samples == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _on_white(strip: Image.Image) -> Image.Image:
    """The image as it looks on a white background."""
    strip = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts an image strip by strip, so that the copies that the conversion needs are small."""
    (width, height), result = image.size, Image.new(mode, image.size)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        result.paste(convert(strip).convert(mode), (0, top))
    return result

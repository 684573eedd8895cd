"""From the bytes of an image file to the uint8 array that a source hands out: pure functions of one image.

`decode` brings everything that Pillow reads to upright 8-bit grey or RGB; `crop_and_resize` cuts a square out
of it and scales it. All that is random (the flip) happens in the train step instead.

Read next: `encoded.py`, which applies both to every image of a data set.
"""

import io

import numpy as np
from PIL import Image, ImageOps


class UnreadableImageError(Exception):
    """An image that cannot be used; the message is the reason, without the image's name."""


def decode(data):
    """Decodes an image file into upright 8-bit grey ("L") or colour ("RGB").

    Of an animation it takes the first frame. The EXIF orientation is applied, 16-bit samples v become
    round(255 v / 65535), and transparency shows a white ground.

    Args:
      data: the file's bytes, in any format that Pillow reads.

    Returns:
      A `PIL.Image.Image` of mode "L" or "RGB".

    Raises:
      UnreadableImageError: not an image, a damaged one, one of too many pixels, or samples without an agreed
        range.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow lets through whatever its decoders trip over: struct.error, KeyError
        raise UnreadableImageError(_reason(data, error)) from error
    if image.mode.startswith("I;16") or image.mode == "I":
        return _grey_from_16_bits(image)
    if image.mode == "F":
        raise UnreadableImageError("floating-point samples have no agreed range; store it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def crop_and_resize(image, *, size, channels, crop=None):
    """Cuts a square out of an image and scales it to `[size, size, channels]`.

    The scaling is Pillow's BILINEAR: a triangle filter as wide as the reduction asks, hence free of aliasing,
    and what torchvision's `Resize` does to CelebA and LSUN in the code of Song et al. 2021 (DDIM). A square
    that already has the size is kept bit for bit.

    Args:
      image: a `PIL.Image.Image` of mode "L" or "RGB".
      size: the side of the result in pixels.
      channels: 1 for grey (ITU-R 601 luma), 3 for RGB.
      crop: the square (left, top, right, bottom) in pixels, right and bottom exclusive; None for the largest
        in the centre.

    Returns:
      uint8 `[size, size, channels]`.

    Raises:
      UnreadableImageError: the image does not hold the square.
    """
    width, height = image.size
    left, top, right, bottom = crop or _centre_square(width, height)
    if right > width or bottom > height:
        raise UnreadableImageError(f"its {width}x{height} pixels do not hold the crop {tuple(crop)}")
    # Cropped first: resize(box=...) would let the filter reach for pixels outside the square.
    image = image.crop((left, top, right, bottom)).convert("L" if channels == 1 else "RGB")
    array = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return array.reshape(size, size, channels)


def _centre_square(width, height):
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _grey_from_16_bits(image):
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:
        raise UnreadableImageError("32-bit samples have no agreed range; store it with 8 or 16 bits")
    return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8))


def _reason(data, error):
    """Says in a few words why `data` is not an image; Pillow's own words name objects in memory."""
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"
    return " ".join(str(error).split()) or type(error).__name__

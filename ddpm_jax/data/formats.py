"""Which image files are read, and how a file is opened without being decoded.

The formats are those that every build of Pillow decodes by itself (AVIF: from Pillow 11.3) and that begin with a
signature, so that a damaged file is not taken for an image of another format. Pillow accepts many more: drawings for
which it starts another program (EPS), and formats of which it has only a stub (HDF5). Messages name those, but they
are never opened.

Read next: `transforms.py`, which decodes what is opened here.
"""

import contextlib
import functools
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL
from PIL import Image, ImageFile, features

from ddpm_jax.runtime.quiet import quiet_pillow

# Each format with the suffixes of its files, the most memory in bytes that a pixel takes while it is decoded and
# converted, and the feature that Pillow may lack.
_FORMATS: dict[str, tuple[tuple[str, ...], int, str | None]] = {
    "JPEG": ((".jpg", ".jpeg", ".jpe", ".jfif"), 12, "jpg"),
    "PNG": ((".png", ".apng"), 9, "zlib"),
    "WEBP": ((".webp",), 21, "webp"),
    "AVIF": ((".avif",), 24, "avif"),
    "BMP": ((".bmp",), 9, None),
    "GIF": ((".gif",), 9, None),
    "TIFF": ((".tif", ".tiff"), 13, "libtiff"),
    "PPM": ((".ppm", ".pgm", ".pbm", ".pnm"), 9, None),
}
_MEMORY = 768 * 2**20  # bytes that the file, its pixels and all copies of them may take while an image is decoded

# Suffixes of files that are never opened, each with its format.
_DRAWINGS = dict.fromkeys((".eps", ".epsf", ".epsi", ".ps"), "EPS") | {".wmf": "WMF", ".emf": "EMF"}
_STUBS = dict.fromkeys((".h5", ".hdf", ".hdf5"), "HDF5") | {".grib": "GRIB", ".bufr": "BUFR", ".fits": "FITS"}

# Files that are not raster images of these formats: where their signature begins, the signature, and their name.
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%!PS", "an EPS or PostScript drawing"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS drawing"),
    (0, b"\xd7\xcd\xc6\x9a", "a WMF drawing"),
    (40, b" EMF", "an EMF drawing"),
    (0, b"%PDF", "a PDF document"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"GRIB", "a GRIB file"),
    (0, b"BUFR", "a BUFR file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (4, b"ftyphei", "a HEIC file"),
    (4, b"ftypmif1", "a HEIF file"),
    (4, b"ftypavi", "an AVIF file, which needs a newer Pillow"),
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
)


class UnreadableImageError(Exception):
    """An image that cannot be used; the message is the reason, without the image's name."""


@functools.cache
def supported_formats() -> tuple[str, ...]:
    """The formats of `_FORMATS` that this build of Pillow reads, by Pillow's names."""
    return tuple(name for name, (_, _, needed) in _FORMATS.items() if needed is None or _has(needed))


def suffixes(formats: tuple[str, ...] = tuple(_FORMATS)) -> tuple[str, ...]:
    """The suffixes, in lower case, of the files of the given formats, by default of all that may be read."""
    return tuple(suffix for name in formats for suffix in _FORMATS[name][0])


def why_not(path: str) -> str:
    """Why a file that has none of the suffixes of `supported_formats` is not read, to follow "2 files "."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _DRAWINGS:
        return f"of the format {_DRAWINGS[suffix]}, a drawing, which another program must convert into an image"
    if suffix in _STUBS:
        return f"of the format {_STUBS[suffix]}, which is not a supported kind of image"
    if suffix in suffixes():
        return f"that this build of Pillow {PIL.__version__} cannot read; pip install --upgrade pillow may help"
    return "of other formats"


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file of the disk that may hold an image.

    Raises:
      UnreadableImageError: as `checked_read`, or it is not a regular file (reading a pipe would wait).
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UnreadableImageError(error.strerror or type(error).__name__) from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("it is not a regular file")
    return checked_read(Path(path).read_bytes, status.st_size)


def checked_read(read: Callable[[], bytes], num_bytes: int) -> bytes:
    """What a function reads from a file of a known size.

    Raises:
      UnreadableImageError: it cannot be read, or is too large.
    """
    if num_bytes > _MEMORY:
        raise UnreadableImageError(f"the file has {num_bytes:,} bytes; at most {_MEMORY:,} are read")
    try:
        return read()
    except OSError as error:
        raise UnreadableImageError(error.strerror or type(error).__name__) from error


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """Opens an image file by its header: a `PIL.Image.Image` of a known size whose pixels are not decoded yet.

    The body of the `with` statement decodes it; every exception in there becomes an `UnreadableImageError` too.

    Args:
      data: the file's bytes.

    Raises:
      UnreadableImageError: the data is not an image of one of the formats, is damaged, or its pixels would take too
        much memory.
    """
    try:
        with quiet_pillow(), Image.open(io.BytesIO(data), formats=supported_formats()) as image:
            _check_size(image, len(data))
            yield image
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow passes on every exception of its decoders, such as struct.error or KeyError
        raise UnreadableImageError(_reason(data, error)) from error


def has_several_frames(image: ImageFile.ImageFile) -> bool:
    """Whether an image that has just been opened is an animation, or has several pages."""
    if image.format != "GIF":  # a JPEG's second image is a preview or a depth map of the first
        return image.format in ("PNG", "WEBP", "AVIF", "TIFF") and bool(getattr(image, "is_animated", False))
    with contextlib.suppress(Exception):  # the first frame may be intact where the second is damaged
        # Opened a second time, because looking for a second frame moves the image to it.
        assert isinstance(image.fp, io.BytesIO), "`opened` reads the file's bytes"
        return bool(getattr(Image.open(io.BytesIO(image.fp.getvalue()), formats=("GIF",)), "is_animated", False))
    return False


def _has(feature: str) -> bool:
    """Whether Pillow was built with a feature; an older Pillow warns if it is asked for one that it does not know."""
    known = features.modules.keys() | features.codecs.keys()
    return feature in known and bool(features.check(feature))


def _check_size(image: Image.Image, num_bytes: int) -> None:
    """Raises an `UnreadableImageError` if the header shows that the image would take too much memory."""
    most = (_MEMORY - num_bytes) // _FORMATS[_family(image)][1]
    tags = getattr(image, "tag_v2", {})  # of a TIFF: a tile is decoded whole, even if little of it is in the image
    for what, (width, height) in (("it has", image.size), ("its tiles have", (tags.get(322, 1), tags.get(323, 1)))):
        if isinstance(width, int) and isinstance(height, int) and width * height > most:
            raise UnreadableImageError(_too_large(f"{what} {width:,} x {height:,} = {width * height:,}", most))


def _family(image: Image.Image) -> str:
    """The key of `_FORMATS` for an image; Pillow has a name of its own for a JPEG with a second image inside."""
    assert image.format is not None, "it was opened from a file"
    return {"MPO": "JPEG"}.get(image.format, image.format)


def _too_large(pixels: str, most: int) -> str:
    return f"{pixels} pixels, and at most {most:,} are allowed for such a file; make it smaller"


def _reason(data: bytes, error: Exception) -> str:
    """Says in a few words why `data` is not a usable image; Pillow's own messages name objects in memory."""
    if not data:
        return "the file is empty"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):  # Pillow's own limit
        (pixels, *_) = re.findall(r"\d+", str(error))
        return _too_large(
            f"it has {int(pixels):,}", _MEMORY // min(bytes_each for _, bytes_each, _ in _FORMATS.values())
        )
    if isinstance(error, Image.UnidentifiedImageError):
        other = next((what for start, magic, what in _OTHERS if data.startswith(magic, start)), None)
        return f"it is {other}; store it as PNG or JPEG" if other else "it is not an image in a known format"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    return " ".join(str(error).split()) or type(error).__name__

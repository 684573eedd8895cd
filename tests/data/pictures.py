"""Encoded pictures of every odd kind, as bytes, for the tests of decoding."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, file_format="PNG", **options):
    """The bytes of an image file; arrays become images first."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def gradient(height, width):
    """RGB `[height, width, 3]` whose pixel at (x, y) is (x, y, 7)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8)


def png(width, height, *, depth, colour, rows):
    """A PNG by hand, for the kinds that Pillow reads but does not write; `rows` are the unfiltered bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")

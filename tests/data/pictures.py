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


def png(width, height, *, depth, colour, rows, chunks=()):
    """A PNG by hand, for the kinds that Pillow reads but does not write.

    `rows` are the unfiltered bytes, `chunks` pairs of name and data that lie before them.
    """

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    more = b"".join(chunk(*named) for named in chunks)
    data = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + data


def tiff(width, height, samples, **tags):
    """A grey TIFF by hand, little-endian, one strip, for the kinds that Pillow reads but does not write.

    Args:
      width, height: of the image.
      samples: the strip's bytes.
      **tags: `t258=12` gives tag 258 that value, in place of or beside those of plain 8 bits.
    """
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(samples)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    samples += b"\0" * (len(samples) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + struct.pack("<H", len(entries)) + table + bytes(4)

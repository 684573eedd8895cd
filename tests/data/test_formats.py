"""Every suffix on the list is read, what is too large is refused from its header, and nothing else is opened."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.pictures import encoded, png, tiff
from PIL import EpsImagePlugin, Image

from ddpm_jax.data import formats
from ddpm_jax.data.folder import ImageFolder
from ddpm_jax.data.formats import UnreadableImageError, has_several_frames, opened, read_file, suffixes
from ddpm_jax.data.transforms import decode
from ddpm_jax.errors import UserError

GREY = np.full((16, 16), 80, np.uint8)
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
FORMATS = formats.supported_formats()


@pytest.mark.parametrize("suffix", suffixes(FORMATS))
def test_an_image_of_every_suffix_on_the_list_is_read(tmp_path, suffix):
    Image.fromarray(GREY).convert("1" if suffix == ".pbm" else "L").save(tmp_path / f"x{suffix.upper()}")
    (image,) = ImageFolder(tmp_path, size=16, channels=1)
    if suffix == ".pbm":
        assert set(np.unique(image["image"])) == {0, 255}  # dithered
        assert image["image"].mean() == pytest.approx(80, abs=3)
    else:
        np.testing.assert_allclose(image["image"][..., 0], GREY, atol=1)


def test_the_list_has_the_common_formats_and_none_that_starts_a_program_or_is_a_stub():
    common = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"}
    assert common | {".ppm", ".pgm", ".pbm", ".pnm"} <= set(suffixes())
    assert not {"EPS", "WMF", "HDF5", "GRIB", "BUFR", "FITS"} & set(FORMATS)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encoded(FRAMES[0], "EPS"), "an EPS or PostScript drawing"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), "a WMF drawing"),
        (b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60), "an EMF drawing"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
        (b"GRIB" + bytes(40), "a GRIB file"),
        (encoded(FRAMES[0], "JPEG2000"), "a JPEG 2000 file"),
        (bytes(4) + b"ftypheic" + bytes(40), "a HEIC file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer in place of the file"),
    ],
)
def test_a_file_of_another_kind_is_named_and_never_opened_whatever_its_suffix(tmp_path, monkeypatch, data, what):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: pytest.fail("a program was started"))
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(UserError, match=f"x.jpg: it is {what}; store it as PNG or JPEG"):
        ImageFolder(tmp_path, size=8)[0]


@pytest.mark.parametrize("name", FORMATS)
def test_what_would_take_too_much_memory_is_refused_by_its_size_before_it_is_decoded(name, monkeypatch):
    data = encoded(Image.fromarray(GREY).convert("RGB"), name)
    needed = len(data) + 256 * formats._FORMATS[name][1]
    monkeypatch.setattr(formats, "_MEMORY", needed)
    assert decode(data).size == (16, 16)
    monkeypatch.setattr(formats, "_MEMORY", needed - 1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableImageError, match=r"^it has 16 x 16 = 256 pixels, and at most 255 are allowed"):
        decode(data)


@pytest.mark.parametrize(
    ("width", "height", "pixels"),
    [
        (170_000_000, 1, "170,000,000 x 1 = 170,000,000"),
        (1, 170_000_000, "1 x 170,000,000 = 170,000,000"),
        (9460, 9460, "9,460 x 9,460 = 89,491,600"),
        (60_000, 60_000, "3,600,000,000"),
    ],
)
def test_decompression_bombs_are_refused(tmp_path, width, height, pixels):
    bomb = png(width, height, depth=8, colour=2, rows=[])
    assert len(bomb) < 80
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(
        UserError, match=rf"/bomb.png: it has {pixels} pixels, and at most 89,478,4\d\d are allowed for such a file"
    ):
        ImageFolder(tmp_path, size=8)[0]


def test_a_tile_larger_than_the_image_is_refused():
    data = tiff(4, 4, bytes(16), t322=30_000, t323=30_000, t324=8, t325=16)
    with pytest.raises(UnreadableImageError, match="its tiles have 30,000 x 30,000 = 900,000,000 pixels"):
        decode(data)


def test_the_largest_photographs_of_common_cameras_are_within_the_limits():
    """61 megapixels in colour, with files as large as they come: JPEG of 1 byte per pixel, TIFF of 3."""
    for name, bytes_per_pixel in (("JPEG", 1), ("PNG", 3), ("TIFF", 3 / 4)):
        assert 9504 * 6336 * (formats._FORMATS[name][1] + bytes_per_pixel) < formats._MEMORY * 1.05


def test_a_file_that_is_too_large_or_no_file_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe.png: it is not a regular file; remove it"):
        ImageFolder(tmp_path, size=8)[0]
    (tmp_path / "large.png").write_bytes(bytes(101))
    monkeypatch.setattr(formats, "_MEMORY", 100)
    with pytest.raises(UnreadableImageError, match="the file has 101 bytes; at most 100 are read"):
        read_file(tmp_path / "large.png")


def several(name):
    return encoded(FRAMES[0], name, save_all=True, append_images=FRAMES[1:])


@pytest.mark.parametrize("name", [name for name in ("GIF", "PNG", "WEBP", "AVIF", "TIFF") if name in FORMATS])
def test_several_frames_are_noticed_and_the_first_is_the_same_as_ever(name):
    with opened(several(name)) as image:
        assert has_several_frames(image)
    with opened(encoded(FRAMES[0], name)) as image:
        assert not has_several_frames(image)
    tolerance = 3 if name in ("WEBP", "AVIF") else 0
    np.testing.assert_allclose(np.asarray(decode(several(name)).convert("RGB"))[4, 4], [255, 0, 0], atol=tolerance)


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO file")
def test_the_second_image_inside_a_photograph_is_no_frame():
    data = several("MPO")
    with Image.open(io.BytesIO(data)) as image:
        if image.format != "MPO":
            pytest.skip("this Pillow does not read the MPO files that it writes")
        assert image.is_animated
    with opened(data) as image:
        assert not has_several_frames(image)


DAMAGED = """
import io, sys
import numpy as np
from PIL import Image
sys.path.insert(0, "tests")
from data.pictures import encoded, png, tiff
from ddpm_jax.data.transforms import decode

picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
damaged = [png(9460, 9460, depth=8, colour=2, rows=[]), tiff(4, 4, bytes(16), t277=60000)]
damaged += [tiff(4, 4, bytes(16), t34665=10**6), tiff(4, 4, bytes(16)).replace(b"\\x06\\x01\\x04", b"\\x06\\x01\\x05")]
for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
    data = bytearray(encoded(picture, "TIFF", compression=compression))
    data[100:140] = bytes(40)
    damaged.append(bytes(data))
for data in damaged:
    try:
        decode(data)
    except Exception as error:
        print(type(error).__name__)
"""


def test_what_libraries_print_of_damaged_files_is_kept_from_the_user():
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", DAMAGED], cwd=root, capture_output=True, text=True)
    assert run.stderr == ""
    assert set(run.stdout.split()) == {"UnreadableImageError"}
    assert len(run.stdout.split()) == 4

import io
import struct

import numpy as np
import pytest
from data.pictures import encoded, gradient, png, tiff
from PIL import Image

from ddpm_jax.data import transforms
from ddpm_jax.data.transforms import UnreadableImageError, crop_and_resize, decode

NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def pixels(data):
    return np.asarray(decode(data))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_files_decode_to_their_pixels(file_format):
    grey = NOISE[..., 0]
    np.testing.assert_array_equal(np.asarray(decode(encoded(grey, file_format)).convert("L")), grey)


def test_colour_files_decode_to_their_pixels():
    for data in (encoded(NOISE), encoded(NOISE, "WEBP", lossless=True)):
        np.testing.assert_array_equal(pixels(data), NOISE)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(file_format):
    samples = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    expected = [[0, 0, 1, 1, 128, 254, 255, 255]]  # round(255 v / 65535)
    np.testing.assert_array_equal(pixels(encoded(samples, file_format)), expected)


def test_sixteen_bit_colour_keeps_its_high_bytes():
    row = struct.pack(">6H", 0, 256, 65535, 32768, 512, 4096)
    data = png(2, 1, depth=16, colour=2, rows=[row])
    np.testing.assert_array_equal(pixels(data), [[[0, 1, 255], [128, 2, 16]]])


def test_sixteen_bit_pgm_is_scaled_by_its_largest_value():
    samples = np.array([0, 128, 129, 257, 32768, 65406, 65407, 65535], ">u2")
    np.testing.assert_array_equal(pixels(b"P5 8 1 65535\n" + samples.tobytes()), [[0, 0, 1, 1, 128, 254, 255, 255]])
    samples = np.array([0, 8, 9, 4095], ">u2")  # round(255 v / 4095)
    np.testing.assert_array_equal(pixels(b"P5 4 1 4095\n" + samples.tobytes()), [[0, 0, 1, 255]])


@pytest.mark.parametrize(
    ("data", "unclear"),
    [
        (encoded(np.full((2, 2), 200, np.int32), "TIFF"), "signed 32-bit"),
        (encoded(np.full((2, 2), 70000, np.int32), "TIFF"), "signed 32-bit"),
        (tiff(2, 2, struct.pack("<4I", 0, 1, 2, 255), t258=32), "32-bit"),
        (tiff(2, 2, struct.pack("<4h", -1, 1, 2, 255), t258=16, t339=2), "signed 16-bit"),
        (tiff(2, 2, bytes(4), t339=2), "signed 8-bit"),
        (encoded(np.ones((2, 2), np.float32), "TIFF"), "floating-point"),
        (b"Pf 2 1 -1.0\n" + bytes(8), "floating-point"),
    ],
)
def test_samples_without_a_range_are_refused(data, unclear):
    with pytest.raises(UnreadableImageError, match=f"^{unclear} samples have no standard range; store it with 8 or 16"):
        decode(data)


def test_twelve_bit_samples_fill_the_range():
    packed = bytes.fromhex("000800 009FFF")  # 0, 2048, 9 and 4095
    np.testing.assert_array_equal(pixels(tiff(4, 1, packed, t258=12)), [[0, 128, 1, 255]])  # round(255 v / 4095)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_sixteen_bits_that_hold_fewer_are_scaled_by_the_largest_value_that_the_header_declares(bits):
    white = 2**bits - 1
    samples = np.array([[0, white // 5, white]], np.uint16)
    data = encoded(samples, "TIFF", tiffinfo={281: white})
    np.testing.assert_array_equal(pixels(data), [[0, round(255 * (white // 5) / white), 255]])
    with pytest.raises(UnreadableImageError, match=f"its largest sample is {white + 1}, but its header allows {white}"):
        decode(encoded(samples + np.uint16(1), "TIFF", tiffinfo={281: white}))


def test_a_largest_value_that_only_tells_of_the_image_changes_nothing():
    samples = np.array([[0, 32768, 50000]], np.uint16)
    np.testing.assert_array_equal(pixels(encoded(samples, "TIFF", tiffinfo={281: 50000})), [[0, 128, 195]])


def test_colours_that_hold_fewer_than_sixteen_bits_are_refused():
    data = tiff(1, 1, struct.pack("<3H", 4095, 0, 0), t258=16, t262=2, t277=3, t281=4095)
    with pytest.raises(UnreadableImageError, match="its colour values reach only 4095 of 65535"):
        decode(data)


def test_sixteen_bits_whose_zero_is_white_are_inverted():
    samples = struct.pack("<3H", 0, 32768, 65535)
    np.testing.assert_array_equal(pixels(tiff(3, 1, samples, t258=16, t262=0)), [[255, 127, 0]])
    np.testing.assert_array_equal(pixels(tiff(3, 1, samples, t258=16)), [[0, 128, 255]])


def test_one_bit_images_are_black_and_white():
    image = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
    np.testing.assert_array_equal(pixels(encoded(image)), [[0, 255, 0]])


def test_palette_is_looked_up():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    expected = [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]
    np.testing.assert_array_equal(pixels(encoded(image)), expected)
    # One entry transparent: it shows the white ground.
    np.testing.assert_array_equal(pixels(encoded(image, transparency=0)), [[[70, 80, 90], [255] * 3, [40, 50, 60]]])


def test_transparency_shows_white():
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    # 51 / 255 = 0.2 of the colour and 0.8 of white
    np.testing.assert_array_equal(pixels(encoded(rgba)), [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]])
    grey_alpha = Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(np.asarray(decode(encoded(grey_alpha)).convert("L")), [[100, 255]])


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, b"\x50", 0, [255, 255, 255, 255]),
        (1, b"\x50", 1, [0, 255, 0, 255]),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x03\x4f", 3, [0, 255, 68, 255]),
        (8, b"\0\x03\x04\xff", 3, [0, 255, 4, 255]),
        (16, struct.pack(">4H", 0, 771, 772, 65535), 771, [0, 255, 3, 255]),
        (16, struct.pack(">4H", 0, 771, 772, 65535), 3, [0, 3, 3, 255]),
    ],
)
def test_the_transparent_level_of_grey_shows_white_at_every_depth(depth, row, transparent, expected):
    data = png(4, 1, depth=depth, colour=0, rows=[row], chunks=[(b"tRNS", struct.pack(">H", transparent))])
    np.testing.assert_array_equal(np.asarray(decode(data).convert("L")), [expected])


def test_the_transparent_colour_shows_white_where_the_decoded_pixels_still_tell_it():
    chunks = [(b"tRNS", struct.pack(">3H", 1, 2, 3))]
    shown = pixels(png(2, 1, depth=8, colour=2, rows=[bytes([1, 2, 3, 1, 2, 4])], chunks=chunks))
    np.testing.assert_array_equal(shown, [[[255, 255, 255], [1, 2, 4]]])
    with pytest.raises(UnreadableImageError, match="one of its 16-bit colours is transparent"):
        decode(png(1, 1, depth=16, colour=2, rows=[struct.pack(">3H", 1, 2, 4)], chunks=chunks))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_strips_change_nothing(mode, monkeypatch):
    """Transparency is composited a few rows at a time."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (11, 7, 4), dtype=np.uint8)).convert(mode)
    data = encoded(image, "TIFF" if mode == "PA" else "PNG")
    rgba = image.convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    for pixels_at_a_time in (1, 14, 2**20):
        monkeypatch.setattr(transforms, "_STRIP", pixels_at_a_time)
        np.testing.assert_array_equal(pixels(data), np.asarray(whole))


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow ink: red
    np.testing.assert_allclose(pixels(encoded(cmyk, "JPEG"))[4, 4], [255, 0, 0], atol=3)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_first_frame_of_an_animation(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 3
    np.testing.assert_array_equal(pixels(data), np.broadcast_to([255, 0, 0], (8, 8, 3)))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize(("orientation", "upright"), [(1, NOISE), (3, NOISE[::-1, ::-1]), (6, np.rot90(NOISE, -1))])
def test_exif_orientation_is_applied(orientation, upright, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(NOISE, file_format, exif=exif, **options)), upright)


def test_damaged_files_are_unreadable_and_say_why():
    jpeg = encoded(NOISE, "JPEG")
    for data, reason in (
        (b"", "the file is empty"),
        (b"This is no picture.", "not an image in a known format"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (encoded(NOISE)[:-30], "truncated"),
    ):
        with pytest.raises(UnreadableImageError, match=rf"(?i){reason}") as caught:
            decode(data)
        assert "BytesIO" not in str(caught.value)


def test_decompression_bomb_is_unreadable_before_it_is_unpacked():
    bomb = png(60_000, 60_000, depth=8, colour=2, rows=[])
    with pytest.raises(UnreadableImageError, match=r"it has 3,600,000,000 pixels, and at most 89,478,485 are"):
        decode(bomb)


def test_crop_takes_exactly_the_box():
    image = Image.fromarray(gradient(60, 50))
    cut = crop_and_resize(image, size=16, channels=3, crop=(5, 30, 21, 46))
    np.testing.assert_array_equal(cut, gradient(60, 50)[30:46, 5:21])


@pytest.mark.parametrize(("height", "width", "top", "left"), [(9, 20, 0, 5), (20, 8, 6, 0), (8, 8, 0, 0)])
def test_default_crop_is_the_centre_square(height, width, top, left):
    side = min(height, width)
    array = gradient(height, width)
    cut = crop_and_resize(Image.fromarray(array), size=side, channels=3)
    np.testing.assert_array_equal(cut, array[top : top + side, left : left + side])


def test_box_beyond_the_image_is_unreadable():
    with pytest.raises(UnreadableImageError, match=r"50x60 pixels do not contain the crop \(40, 0, 56, 16\)"):
        crop_and_resize(Image.fromarray(gradient(60, 50)), size=8, channels=3, crop=(40, 0, 56, 16))
    with pytest.raises(UnreadableImageError, match="do not contain"):
        crop_and_resize(Image.fromarray(gradient(60, 50)), size=8, channels=3, crop=(0, 45, 16, 61))


def test_resize_is_a_triangle_filter_as_wide_as_the_reduction():
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    factor = 4
    # Output j lies at factor (j + 1/2); input i at i + 1/2; weight 1 - |distance| / factor, normalised.
    distance = np.abs((np.arange(32) + 0.5)[None, :] - factor * (np.arange(8) + 0.5)[:, None])
    weights = np.maximum(0, 1 - distance / factor)
    weights /= weights.sum(1, keepdims=True)
    expected = weights @ array @ weights.T
    small = crop_and_resize(Image.fromarray(array), size=8, channels=1)
    np.testing.assert_allclose(small[..., 0], expected, atol=1.01)  # it rounds to 8 bits after each axis


def test_resize_does_not_see_beyond_the_crop():
    array = np.full((40, 40), 255, np.uint8)
    array[8:24, 8:24] = 100
    small = crop_and_resize(Image.fromarray(array), size=4, channels=1, crop=(8, 8, 24, 24))
    np.testing.assert_array_equal(small, np.full((4, 4, 1), 100))


def test_resize_enlarges_too():
    array = np.array([[0, 100]] * 2, np.uint8)
    large = crop_and_resize(Image.fromarray(array), size=4, channels=1)
    np.testing.assert_array_equal(large[..., 0], [[0, 25, 75, 100]] * 4)


def test_channels_convert_both_ways():
    grey = np.array([[3, 200], [90, 255]], np.uint8)
    rgb = crop_and_resize(Image.fromarray(grey), size=2, channels=3)
    np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, -1))
    back = crop_and_resize(Image.fromarray(rgb), size=2, channels=1)
    np.testing.assert_array_equal(back[..., 0], grey)
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    np.testing.assert_array_equal(crop_and_resize(red, size=1, channels=1), [[[76]]])  # 0.299 * 255

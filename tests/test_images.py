"""Pictures pixel by pixel, and files that are whole or absent."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import enlargement, save_gif, save_png, tile_images, to_uint8
from ddpm_jax.runtime.storage import write_whole

RNG = np.random.default_rng(0)


def pictures(*shape):
    return RNG.integers(0, 255, shape).astype(np.uint8)


def test_every_level_comes_back_from_minus_one_to_one():
    levels = np.arange(256)
    np.testing.assert_array_equal(to_uint8(levels / 127.5 - 1), levels)


def test_levels_are_rounded_to_the_nearest_and_clipped():
    middle = 100 / 127.5 - 1
    x = np.array([middle + 0.49 / 127.5, middle - 0.49 / 127.5, middle + 0.51 / 127.5, -1.2, 1.2, -1e30, 1e30])
    np.testing.assert_array_equal(to_uint8(x), [100, 100, 101, 0, 255, 0, 255])
    assert to_uint8(x).dtype == np.uint8


def by_hand(tiles, *, rows, columns, gap):
    """The grid of large tiles, one pixel at a time."""
    num, height, width, channels = tiles.shape
    canvas = np.full((rows * height + (rows + 1) * gap, columns * width + (columns + 1) * gap, channels), 255)
    for n in range(num):
        row, column = divmod(n, columns)
        for i in range(height):
            for j in range(width):
                canvas[gap + row * (height + gap) + i, gap + column * (width + gap) + j] = tiles[n, i, j]
    return canvas


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("num", "options", "rows", "columns"),
    [
        (1, {}, 1, 1),
        (4, {}, 2, 2),
        (5, {}, 2, 3),
        (6, {"columns": 2}, 3, 2),
        (3, {"columns": 5}, 1, 5),
        (4, {"gap": 3}, 2, 2),
        (4, {"gap": 0}, 2, 2),
    ],
)
def test_a_grid_is_its_images_row_by_row_on_white(num, options, rows, columns, channels):
    tiles = pictures(num, 64, 66, channels)
    expected = by_hand(tiles, rows=rows, columns=columns, gap=options.get("gap", 1))
    out = tile_images(tiles, **options)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("height", "zoom"), [(1, 64), (8, 8), (28, 3), (32, 2), (63, 2), (64, 1), (65, 1)])
def test_small_images_are_enlarged_by_whole_factors_to_64_pixels(height, zoom):
    assert enlargement(height) == zoom
    tiles = pictures(3, height, 5, 1)
    large = tiles.repeat(zoom, 1).repeat(zoom, 2)
    np.testing.assert_array_equal(tile_images(tiles), by_hand(large, rows=2, columns=2, gap=zoom))


def test_a_file_appears_whole_and_alone_in_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    write_whole(path, lambda temporary: temporary.write_text("whole"))
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_not_there_while_it_is_written(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        assert (path.read_text(), temporary.suffix, temporary.parent) == ("old", ".png", tmp_path)

    write_whole(path, write)
    assert path.read_text() == "half"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("broken"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing_and_harms_nothing(tmp_path, error):
    path = tmp_path / "picture.png"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise error

    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    def fail(temporary):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"^cannot write .*picture\.png: No space left on device; free the disk or "):
        write_whole(tmp_path / "picture.png", fail)


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*picture\.png: "):
        save_png(tmp_path / "file" / "picture.png", pictures(4, 4, 1))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_files_keep_every_pixel(tmp_path, channels, mode):
    image = pictures(5, 7, channels)
    save_png(tmp_path / "picture.png", image)
    with Image.open(tmp_path / "picture.png") as read:
        assert read.mode == mode
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)


def read_gif(path, channels):
    """Frames `[N, H, W, C]` and their durations in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as gif:
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("L" if channels == 1 else "RGB")))
            durations.append(gif.info.get("duration"))
        return np.stack(frames).reshape(len(frames), gif.height, gif.width, channels), durations, gif.info["loop"]


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_files_keep_frames_of_few_colours_and_hold_the_last(tmp_path, channels):
    frames = pictures(6, 8, 9, channels)
    save_gif(tmp_path / "chain.gif", frames, seconds=1.2, hold=2.0)
    read, durations, loop = read_gif(tmp_path / "chain.gif", channels)
    np.testing.assert_array_equal(read, frames)
    assert durations == [200] * 5 + [2000]
    assert loop == 0


def test_a_gif_shows_no_frame_for_less_than_viewers_can(tmp_path):
    """Below 20 ms most viewers fall back to 100 ms."""
    save_gif(tmp_path / "chain.gif", pictures(50, 4, 4, 1), seconds=0.1, hold=0.5)
    assert read_gif(tmp_path / "chain.gif", 1)[1] == [20] * 49 + [500]


def test_a_gif_may_be_one_frame(tmp_path):
    frames = pictures(1, 4, 4, 3)
    save_gif(tmp_path / "chain.gif", frames)
    np.testing.assert_array_equal(read_gif(tmp_path / "chain.gif", 3)[0], frames)


def test_a_mistaken_suffix_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="unknown file extension"):
        save_png(tmp_path / "picture.nothing", pictures(4, 4, 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_picture(value):
    x = np.zeros((2, 4, 4, 1), np.float32)
    x[1, 2, 3] = value
    with pytest.raises(UserError, match=r"^the images contain numbers that are not finite: "):
        to_uint8(x)

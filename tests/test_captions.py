"""Words above pictures: they stand where they should and fit, and the pictures below stay pixel by pixel."""

import numpy as np
import pytest

from ddpm_jax.runs import pictures
from ddpm_jax.runtime.captions import HEIGHT, beside, column_heads, hatched, headed, shortened_to, width_of
from ddpm_jax.runtime.images import tile_images

RNG = np.random.default_rng(0)


def images(*shape):
    return RNG.integers(0, 255, shape).astype(np.uint8)


def written(picture, left, right):
    """Whether words stand in the first line of a picture between two columns."""
    return picture[:HEIGHT, left:right].min() < 100


@pytest.mark.parametrize("channels", [1, 3])
def test_words_stand_in_their_place_above_the_picture(channels):
    picture = images(30, 200, channels)
    out = headed(picture, [("seven", 100, 200)])
    assert out.shape == (HEIGHT + 30, 200, channels)
    np.testing.assert_array_equal(out[HEIGHT:], picture)
    assert written(out, 100, 200)
    assert (out[:HEIGHT, :100] == 255).all()
    ink = np.flatnonzero(out[:HEIGHT, :, 0].min(axis=0) < 200)
    assert abs((ink[0] + ink[-1]) / 2 - 150) <= 2


def test_words_that_are_too_wide_are_shortened_to_their_place():
    assert shortened_to("seven", 100) == "seven"
    short = shortened_to("a very long name of a class", 60)
    assert short.startswith("a v")
    assert short.endswith("...")
    assert width_of(short) <= 60
    assert shortened_to("seven", 3) == ""
    assert (headed(images(9, 100, 1), [("a very long name of a class", 0, 50)])[:HEIGHT, 50:] == 255).all()


def test_a_name_on_several_lines_is_written_on_one():
    assert "\n" not in shortened_to("two\nlines", 200)


def test_each_column_has_its_name():
    grid = tile_images(images(6, 8, 8, 1), columns=3)
    out = column_heads(grid, ["0", "1", "2"])
    np.testing.assert_array_equal(out[HEIGHT:], grid)
    assert all(written(out, 72 * i + 8, 72 * i + 72) for i in range(3))


def test_pictures_stand_beside_each_other_below_their_names():
    small, large = images(20, 16, 3), images(50, 200, 3)
    out = beside([("a long name", small), ("b", large)])
    width = width_of("a long name")
    assert out.shape == (HEIGHT + 50, width + 24 + 200, 3)
    left = (width - 16) // 2
    np.testing.assert_array_equal(out[HEIGHT : HEIGHT + 20, left : left + 16], small)
    np.testing.assert_array_equal(out[HEIGHT:, -200:], large)
    assert (out[HEIGHT + 20 :, :width] == 255).all()


def test_what_is_not_known_is_hatched_and_the_rest_is_not():
    image, known = images(8, 8, 3), np.zeros((8, 8, 1))
    known[:, :3] = 1
    out = hatched(image, known)
    np.testing.assert_array_equal(out[:, :24], image[:, :3].repeat(8, 0).repeat(8, 1))
    assert set(np.unique(out[:, 24:])) == {120, 165}
    assert out.dtype == np.uint8


def test_a_grid_has_the_names_of_its_classes():
    given = images(6, 8, 8, 1)
    for labels, columns, names in (((), None, ()), ((0, 1, 2), 3, ("cat", "dog", "owl")), ((1, 10), 2, ())):
        out = pictures.grid(given, labels, names=names, num_classes=10)
        tiles = tile_images(given, columns=columns)
        np.testing.assert_array_equal(out[-len(tiles) :], tiles)
        assert len(out) == len(tiles) + (HEIGHT if labels else 0)
    one = pictures.grid(given, (7,), num_classes=10)
    np.testing.assert_array_equal(one, headed(tile_images(given), [("class 7", 0, one.shape[1])]))
    null = pictures.grid(given, (10,), num_classes=10)
    np.testing.assert_array_equal(null, headed(tile_images(given), [("no class", 0, null.shape[1])]))

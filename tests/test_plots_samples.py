"""The plots of samples show the images and numbers that they are given, with their words."""

import numpy as np
import pytest
from matplotlib.image import AxesImage

from ddpm_jax.diffusion import bayes
from ddpm_jax.evaluation import plots
from ddpm_jax.runtime.captions import hatched

RNG = np.random.default_rng(0)


def shown(panel):
    """The image of a panel, or None."""
    found = [artist for artist in panel.get_children() if isinstance(artist, AxesImage)]
    return np.asarray(found[0].get_array()) if found else None


def drawn(figure):
    """The same figure, after it was drawn with all words inside its frame."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01  # noqa: PT018
    return figure


def test_each_image_is_below_its_name():
    images = RNG.integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    axes = drawn(plots.labelled(images, [7, 1, "two", 3, 4], columns=3)).axes
    assert [panel.get_title() for panel in axes] == ["7", "1", "two", "3", "4", ""]
    for panel, image in zip(axes, images, strict=False):
        np.testing.assert_array_equal(shown(panel), image[..., 0])
    assert shown(axes[5]) is None


def test_an_image_of_digits_has_64_pixels_or_more():
    figure = drawn(plots.labelled(np.zeros((4, 8, 8, 1)), range(4)))
    assert min(panel.get_window_extent().height for panel in figure.axes) >= 64


def test_a_chain_has_the_estimate_below_the_noisy_image():
    x, x_0 = RNG.uniform(-1, 1, (2, 3, 2, 8, 8, 1))
    figure = drawn(plots.chain_strip([9, 5, 0], x, x_0))
    panels = np.reshape(figure.axes, (2, 2, 3))  # image, x_t or x_0, time
    assert [panel.get_title() for panel in panels[0, 0]] == ["t = 9", "t = 5", "t = 0"]
    assert [panel.get_ylabel() for panel in panels[1, :, 0]] == ["x_t", "estimate\nof x_0"]
    for b in range(2):
        for f in range(3):
            for row, images in enumerate((x, x_0)):
                expected = np.round((images[f, b, ..., 0] + 1) * 127.5)
                np.testing.assert_allclose(shown(panels[b, row, f]), expected, atol=1)


def test_an_inpainting_shows_original_given_part_and_results():
    original, known = RNG.integers(0, 256, (8, 8, 1)).astype(np.uint8), np.indices((8, 8))[0][..., None] < 4
    results = RNG.integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    axes = np.reshape(drawn(plots.inpainting(original, known, results, columns=3)).axes, (2, 5))
    assert [panel.get_title() for panel in axes[0]] == ["original", "given", "result 1", "result 2", "result 3"]
    np.testing.assert_array_equal(shown(axes[0, 0]), original[..., 0])
    np.testing.assert_array_equal(shown(axes[0, 1]), hatched(original, known)[..., 0])
    for panel, result in zip([*axes[0, 2:], *axes[1, 2:]], results, strict=False):
        np.testing.assert_array_equal(shown(panel), result[..., 0])
    assert [shown(panel) is None for panel in axes[1]] == [True, True, False, False, True]


def test_samplers_are_compared_by_steps():
    results = {"DDIM": {5: (0.9, 0.5, 1.2), 10: (0.8, 0.8, 0.6)}, "Heun": {5: (0.7, 0.6, 0.9)}}
    figure = drawn(plots.by_steps(results))
    assert [panel.get_title() for panel in figure.axes] == list(plots.samples.QUALITY)
    for i, panel in enumerate(figure.axes):
        line, other = panel.get_lines()
        np.testing.assert_array_equal(line.get_xydata(), [[5, results["DDIM"][5][i]], [10, results["DDIM"][10][i]]])
        np.testing.assert_array_equal(other.get_xydata(), [[5, results["Heun"][5][i]]])
    assert figure.axes[0].get_ylim() == (0, 1.04)
    assert figure.axes[2].get_ylim()[1] > 1.2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["DDIM", "Heun"]


def test_what_a_guidance_scale_costs():
    rows = np.array([[1, 0.5, 0.6, 0.9, 0.4], [2, 0.9, 0.8, 0.5, 0.8]])
    figure = drawn(plots.guidance_costs({"classifier": rows}))
    asked, trade, both = figure.axes
    np.testing.assert_array_equal(asked.get_lines()[0].get_xydata(), rows[:, [0, 1]])
    np.testing.assert_array_equal(trade.get_lines()[0].get_xydata(), rows[:, [3, 2]])
    np.testing.assert_array_equal(both.get_lines()[0].get_xydata(), rows[:, [0, 4]])
    assert [text.get_text() for text in trade.texts] == ["1", "2"]


@pytest.fixture
def measured():
    return [bayes.uncertainty(np.log(RNG.dirichlet(np.ones(10) * scale, (4, 50)))) for scale in (0.1, 1, 10)]


def test_the_uncertainty_of_sets_of_images(measured):
    figure = drawn(plots.uncertainty({"digits": measured[0], "noise": measured[1]}))
    for panel, key in zip(figure.axes, ("predictive_entropy", "mutual_information"), strict=True):
        outline = panel.patches[0].get_xy()
        assert outline[:, 0].max() == pytest.approx(max(float(getattr(u, key).max()) for u in measured[:2]), rel=1e-5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["digits", "noise"]


def test_the_entropy_over_time(measured):
    (panel,) = drawn(plots.entropy_over_time([1, 5, 9], measured, num_classes=10)).axes
    guess, whole, expected = panel.get_lines()
    np.testing.assert_allclose(guess.get_ydata(), np.log(10))
    np.testing.assert_allclose(whole.get_ydata(), [u.predictive_entropy.mean() for u in measured])
    np.testing.assert_allclose(expected.get_ydata(), [u.expected_entropy.mean() for u in measured])

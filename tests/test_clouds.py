"""Plots of points over densities, of kernels and of errors show the numbers that they were given."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from support.analytic import MIXTURE, normal

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.evaluation import plots

LINE = Gaussian([0.0], [[1.0]])


def saved(figure):
    """The picture as an array of pixels, which shows that it can be drawn."""
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("L"))


def test_a_cloud_has_the_points_over_the_density():
    figure, [axes] = plots.panels(1)
    plots.cloud(axes, normal(30, 2), MIXTURE.log_prob, extent=2)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), normal(30, 2))
    shown = axes.images[0].get_array()
    middle = np.exp(MIXTURE.log_prob(np.zeros((1, 2), np.float32)))[0]
    np.testing.assert_allclose(shown[50, 50], middle, rtol=1e-4)
    assert axes.get_xlim() == axes.get_ylim() == (-2, 2)
    assert saved(figure).min() < 128


def test_clouds_have_a_title_over_each_column_and_a_name_beside_each_row():
    sets = [normal(5, 2, seed=i) for i in range(4)]
    figure = plots.clouds(sets, 4 * [MIXTURE.log_prob], titles=["a", "b"], rows=["one", "two"])
    assert [panel.get_title() for panel in figure.axes] == ["a", "b", "", ""]
    assert [panel.get_ylabel() for panel in figure.axes] == ["one", "", "two", ""]
    for panel, xs in zip(figure.axes, sets, strict=True):
        np.testing.assert_allclose(panel.lines[0].get_xydata(), xs)
    each = plots.clouds(sets, 4 * [MIXTURE.log_prob], titles=["a\nb", "c", "d", "e"], columns=2)
    assert [panel.get_title() for panel in each.axes] == ["a\nb", "c", "d", "e"]


def test_kernels_add_up_to_the_density_of_noisy_data():
    figure, [axes] = plots.panels(1)
    points = np.array([-1.0, 0.5])
    plots.kernels(axes, points, signal=0.8, sigma=0.6, extent=3)
    *parts, total = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) > 1]
    x = axes.lines[-1].get_xdata()
    exact = np.mean(np.exp(-((x - 0.8 * points[:, None]) ** 2) / 0.72) / np.sqrt(0.72 * np.pi), axis=0)
    np.testing.assert_allclose(total, exact, rtol=1e-9)
    np.testing.assert_allclose(np.sum(parts, axis=0), exact, rtol=1e-9)
    triangles = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(triangles, 0.8 * points)
    assert saved(figure).min() < 128


def test_a_histogram_of_draws_lies_on_their_density():
    figure, [axes] = plots.panels(1)
    draws = np.asarray(jax.random.normal(jax.random.key(0), (40_000,)))
    plots.histogram(axes, draws, LINE.log_prob, extent=4, bins=20)
    bars = np.array([(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches])
    np.testing.assert_allclose(bars[:, 1], np.exp(-(bars[:, 0] ** 2) / 2) / np.sqrt(2 * np.pi), atol=0.015)
    np.testing.assert_allclose(axes.lines[0].get_ydata().max(), 1 / np.sqrt(2 * np.pi), rtol=1e-4)
    assert saved(figure).min() < 128


def test_errors_of_an_order_lie_on_its_line():
    figure, [axes] = plots.panels(1)
    sizes = np.array([0.1, 0.2, 0.4])
    plots.errors(axes, sizes, 3 * sizes**2, order=2, label="error")
    line, dots = axes.lines
    np.testing.assert_allclose(line.get_ydata(), dots.get_ydata())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["order 2", "error"]
    assert saved(figure).min() < 128


@pytest.mark.parametrize("groups", [[4, 4, 9], np.array([0, 0, 1])])
def test_chains_of_a_group_have_one_colour(groups):
    figure, [axes] = plots.panels(1)
    xs = normal(6, 3)
    plots.fan(axes, np.arange(6), xs, groups=groups)
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], xs.T)
    first, second, third = (line.get_color() for line in axes.lines)
    assert first == second != third
    assert saved(figure).min() < 128

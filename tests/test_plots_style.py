"""Figures have the style's sizes whenever their words are set, and a PNG keeps rare colours."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ddpm_jax.evaluation import plots


def test_titles_and_legends_that_are_set_later_have_the_sizes_of_the_style():
    figure, (panel, other) = plots.panels(2)
    panel.plot([0, 1], label="a line")
    panel.set(title="a title")
    assert panel.title.get_fontsize() == plots.STYLE["axes.titlesize"]
    other.set_title("larger", fontsize=14)
    assert other.title.get_fontsize() == 14
    assert plots.legend_below(figure, panel) is figure
    for legend in (panel.legend(), figure.legends[0]):
        assert [text.get_fontsize() for text in legend.get_texts()] == [plots.STYLE["legend.fontsize"]]


def test_a_few_orange_arrows_on_a_smooth_density_stay_orange():
    figure, (panel,) = plots.panels(1, width=6)
    plots.density(panel, lambda x: -jnp.sum(x**2, axis=1), extent=2)
    orange = np.array(to_rgb(plots.COLOURS[1])) * 255
    panel.plot([0.5, 0.6], [0.5, 0.6], color=plots.COLOURS[1], linewidth=4)
    pixels = np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"), float)
    assert np.abs(pixels - orange).sum(axis=-1).min() < 15


def test_colours_of_arrows_show_their_lengths():
    _, (panel,) = plots.panels(1)
    drawn = plots.arrows(panel, lambda x: 3 * x, extent=1, num=5, lengths=(0.1, 10))
    lengths = 3 * np.linalg.norm(plots.plane(0.93, num=5), axis=1)
    np.testing.assert_allclose(drawn.get_array(), lengths, rtol=1e-5)
    assert (drawn.norm.vmin, drawn.norm.vmax) == (0.1, 10)


def test_a_parabola_has_its_tangent_at_0():
    _, (panel,) = plots.panels(1)
    plots.parabola(panel, [-1, 0, 2], [1, 2, 3], colour="black", label="F", reach=0.5)
    curve, tangent, mark = panel.lines
    assert list(curve.get_ydata()) == pytest.approx([2, 1, 17])
    assert list(tangent.get_ydata()) == pytest.approx([0, 2])
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0], [1])

"""The plots of what a noisy image leaves open draw the numbers that they are given."""

import numpy as np
import pytest
from support.analytic import IMAGES, normal

from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.evaluation import plots


def test_curves_have_their_names_and_room_above():
    figure, [panel] = plots.panels(1)
    x = np.linspace(0, 1, 5)
    plots.densities(panel, x, {"low": x, "high": 2 * x}, title="two", xlabel="x_s")
    assert [line.get_label() for line in panel.lines] == ["low", "high"]
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), 2 * x)
    assert panel.get_ylim() == (0, 2.7)
    assert (panel.get_title(), panel.get_xlabel()) == ("two", "x_s")
    assert len(figure._repr_png_()) > 1000


def test_an_arrow_goes_from_its_start_to_its_end():
    _, [panel] = plots.panels(1)
    start, end = normal(2, 4, 2)
    plots.displacements(panel, start, end)
    (arrows,) = panel.collections
    np.testing.assert_array_equal(arrows.get_offsets(), start)
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], axis=1), end - start)


def test_circles_have_their_centre_and_radii():
    _, [panel] = plots.panels(1)
    plots.circles(panel, [0.5, -1.0], {"before": 2.0, "after": 0.5}, name="x_0")
    for line, radius in zip(panel.lines[:2], (2.0, 0.5), strict=True):
        np.testing.assert_allclose(np.hypot(line.get_xdata() - 0.5, line.get_ydata() + 1), radius)
    assert [line.get_label() for line in panel.lines] == ["before", "after", "x_0"]


def test_perplexity_counts_equally_likely_outcomes():
    with np.errstate(divide="ignore"):
        log_prob = np.log([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(plots.perplexity(log_prob), [4, 2, 1])
    skewed = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(plots.perplexity(np.log(skewed)), np.prod(skewed**-skewed))


@pytest.mark.usefixtures("x64")
def test_candidates_are_the_likeliest_images_with_their_probabilities():
    level = linear(1000).level([900, 100])
    x_t = level.signal[:, None, None, None] * IMAGES.points[[1, 1]] + 0.1 * normal(2, 4, 4, 1)
    log_prob = np.asarray(IMAGES.log_prob_point(x_t, level))
    mean = IMAGES.denoiser(x_t, level).x_0
    names = ["class 0", "class 1", "class 7"]
    figure = plots.candidates(x_t, mean, IMAGES.points, log_prob, rows=["t = 900", "t = 100"], names=names, num=2)
    panels = np.array(figure.axes).reshape(2, 4)
    assert [panel.get_title() for panel in panels[0]] == ["x_t", "E[x_0 | x_t]", "likeliest", "2nd"]
    assert panels[1, 2].get_xlabel() == "100%, class 1"
    first = int(np.argmax(log_prob[0]))
    assert panels[0, 2].get_xlabel() == f"{100 * np.exp(log_prob[0, first]):.0f}%, {names[first]}"
    np.testing.assert_array_equal(panels[1, 2].images[0].get_array(), 127.5 * (1 + IMAGES.points[1, ..., 0]))
    assert panels[1, 0].get_ylabel() == "t = 100\nperplexity\n1.0"
    assert panels[0, 0].get_ylabel() == f"t = 900\nperplexity\n{plots.perplexity(log_prob[0]):.1f}"
    assert panels[1, 3].get_xlabel().startswith("0.0%, class")

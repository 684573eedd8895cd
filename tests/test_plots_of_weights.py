"""The plots of weights with a posterior: what they draw is what they are given."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.bayes import ELBO, KL
from ddpm_jax.evaluation import plots


@pytest.fixture
def panel():
    """One empty panel."""
    return plots.panels(1)[1][0]


def labels(panel):
    """The names in the legend of a panel."""
    return [text.get_text() for text in panel.get_legend().get_texts()]


def drawn(panel):
    """The lines of a panel, `(x, y)` each."""
    return [tuple(map(np.asarray, line.get_data())) for line in panel.lines]


def test_the_elbo_and_the_divergence_fill_the_evidence(panel):
    plots.evidence(panel, [-9.0, -5.0, -3.5], -3.0)
    below, above = (area.get_paths()[0].vertices for area in panel.collections)
    assert {-9.0, -5.0, -3.5} <= set(below[:, 1]) & set(above[:, 1])
    assert above[:, 1].max() == -3.0
    np.testing.assert_array_equal(drawn(panel)[0][1], [-9.0, -5.0, -3.5])
    np.testing.assert_array_equal(drawn(panel)[1][1], [-3.0, -3.0])
    assert labels(panel) == ["ELBO (up to here)", "KL(q, P(w | D))", "log P(D) = -3.0"]
    assert panel.get_ylim()[1] > -3.0


def test_a_fan_has_every_line_and_their_average(panel):
    lines = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 7.0]])
    plots.predictions(panel, [0, 1, 2], lines, name="mean")
    np.testing.assert_array_equal([y for _, y in drawn(panel)], [*lines, [1.0, 2.0, 4.5]])
    assert panel.lines[-1].get_label() == "mean"


def test_fits_are_densities_over_the_density(panel):
    data = Gaussian([0.5], [[0.04]])
    plots.fits(panel, data.log_prob, {"one": (0.5, 0.2), "other": (-1.0, 0.5)}, extent=4, top=3)
    area = panel.collections[0].get_paths()[0].vertices
    (x, one), (_, other) = drawn(panel)
    assert one.max() == pytest.approx(area[:, 1].max(), rel=1e-5)
    assert (x[np.argmax(one)], x[np.argmax(other)]) == pytest.approx((0.5, -1.0))
    np.testing.assert_allclose([np.trapezoid(one, x), np.trapezoid(other, x)], 1, rtol=1e-3)
    assert labels(panel) == ["p(w)", "one", "other"]


def test_the_kl_is_drawn_over_the_mean(panel):
    plots.kl_over_mean(panel, [-1, 0, 1], {"a": [0.5, 0.0, 0.5], "b": jnp.array([2.5, 2.0, 2.5])})
    np.testing.assert_array_equal([y for _, y in drawn(panel)], [[0.5, 0.0, 0.5], [2.5, 2.0, 2.5]])
    assert labels(panel) == ["a", "b"]


def test_ridge_paths_meet_the_means_at_the_chosen_strength(panel):
    strengths, weights = [0.1, 1.0, 10.0], np.array([[3.0, -1.0], [2.0, -0.5], [0.1, 0.0]])
    plots.ridge_path(panel, strengths, weights, chosen=1.0, means=[2.0, -0.5])
    lines = drawn(panel)
    np.testing.assert_array_equal([y for _, y in lines[:2]], weights.T)
    np.testing.assert_array_equal(lines[2][0], [1.0, 1.0])
    np.testing.assert_array_equal(lines[3], [[1.0, 1.0], [2.0, -0.5]])
    assert panel.get_xscale() == "log"


def test_deviations_are_a_line_and_its_points_of_one_colour(panel):
    measured, exact = {"a": [1.1, 1.9], "b": [0.4, 0.6]}, {"a": [1.0, 2.0], "b": [0.5, 0.5]}
    plots.deviations(panel, measured, exact)
    np.testing.assert_array_equal([y for _, y in drawn(panel)], [exact["a"], measured["a"], exact["b"], measured["b"]])
    colours = [line.get_color() for line in panel.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert labels(panel) == ["a", "b"]


def test_the_razor_shows_the_best_size_and_stacks_the_parts_of_the_kl():
    terms = [ELBO(jnp.array(fit), KL(jnp.array(0.5), jnp.array(cost))) for fit, cost in ((-9, 1), (-4, 2), (-3.5, 4))]
    figure = plots.razor([1, 2, 3], terms, [-10.5, -6.5, -8.0])
    bound, costs = figure.axes
    assert bound.get_title() == "the ELBO chooses 2 features"
    lines = drawn(bound)
    np.testing.assert_array_equal(lines[1][1], [-9, -4, -3.5])
    np.testing.assert_array_equal(lines[2][1], [-10.5, -6.5, -8.0])
    np.testing.assert_array_equal(lines[3][1], [-10.5, -6.5, -8.0])
    heights = [(bar.get_y(), bar.get_height()) for bar in costs.patches]
    assert heights == [(0, 1), (0, 2), (0, 4), (1, 0.5), (2, 0.5), (4, 0.5)]

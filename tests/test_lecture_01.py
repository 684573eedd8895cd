"""Section 1 of the lecture: what precision, recall and the Frechet distance see; the evaluations of a chain."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, keys, normal

from ddpm_jax.diffusion.analytic import GaussianMixture
from ddpm_jax.diffusion.samplers import Variance, advance, ancestral, ddim, heun
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.metrics.frechet import Moments, frechet_distance
from ddpm_jax.metrics.precision_recall import precision_recall

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

DATA, SAMPLES = normal(40, 2), 1.6 + 0.9 * normal(40, 2, seed=1)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def share_in_balls(points, centres):
    """The share of points in the balls around centres, whose radius is the distance to the third nearest centre."""
    inside = 0
    for y in points:
        radii = [np.sort(np.linalg.norm(centres - x, axis=1))[3] for x in centres]
        inside += min(np.linalg.norm(y - x) / r for x, r in zip(centres, radii, strict=True)) <= 1
    return inside / len(points)


def test_1_1_precision_counts_samples_in_balls_around_data():
    share = share_in_balls(SAMPLES, DATA)
    assert 0.1 < share < 0.95
    assert precision_recall(DATA, SAMPLES).precision == pytest.approx(share, abs=1e-12)


def test_1_2_recall_counts_data_in_balls_around_samples():
    share = share_in_balls(DATA, SAMPLES)
    assert 0.1 < share < 0.95
    assert precision_recall(DATA, SAMPLES).recall == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.6, 1.0])
def test_1_3_the_mean_square_distance_of_pairs(correlation):
    """The left side by quadrature over two independent standard normal numbers, of which x and y are made."""
    m_a, m_b, s_a, s_b = 0.3, -1.1, 0.8, 1.7
    u, v = np.meshgrid(NODES, NODES)
    x, y = m_a + s_a * u, m_b + s_b * (correlation * u + np.sqrt(1 - correlation**2) * v)
    mean = np.sum(np.outer(WEIGHTS, WEIGHTS) * (x - y) ** 2)
    covariance = correlation * s_a * s_b
    np.testing.assert_allclose(mean, (m_a - m_b) ** 2 + s_a**2 + s_b**2 - 2 * covariance, rtol=1e-10)


def test_1_4_the_frechet_distance_of_gaussian_numbers():
    """The best pairs are quantiles of the same order; other correlations cost more."""
    m_a, m_b, a, b = 0.3, -1.1, 0.64, 2.89
    pairs = np.sum(WEIGHTS * ((m_a + np.sqrt(a) * NODES) - (m_b + np.sqrt(b) * NODES)) ** 2)
    expected = (m_a - m_b) ** 2 + (np.sqrt(a) - np.sqrt(b)) ** 2
    np.testing.assert_allclose(pairs, expected, rtol=1e-10)
    np.testing.assert_allclose((m_a - m_b) ** 2 + a + b - 2 * np.sqrt(a * b), expected, rtol=1e-12)
    ours = [Moments(None, np.array([m]), np.array([[c]])) for m, c in ((m_a, a), (m_b, b))]
    np.testing.assert_allclose(frechet_distance(*ours), expected, rtol=1e-9)
    costs = [(m_a - m_b) ** 2 + a + b - 2 * r * np.sqrt(a * b) for r in (-1.0, 0.0, 0.9)]
    assert min(costs) > expected


def test_1_5_a_blur_with_the_right_moments_has_distance_zero():
    data = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.02]], [[0.02]]])
    line = np.linspace(-6, 6, 4001)[:, None]
    q = np.exp(data.log_prob(line))
    mean, var = np.trapezoid(q * line[:, 0], line[:, 0]), np.trapezoid(q * line[:, 0] ** 2, line[:, 0])
    blur = np.exp(-((line[:, 0] - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)
    ours = Moments(None, data.mean, data.covariance)
    assert frechet_distance(ours, Moments(None, np.array([mean]), np.array([[var]]))) == pytest.approx(0, abs=1e-9)
    assert np.trapezoid(np.abs(q - blur), line[:, 0]) / 2 == pytest.approx(0.685, abs=1e-3)


@pytest.mark.parametrize("num_steps", [3, 8])
def test_1_6_evaluations_of_a_chain(num_steps):
    schedule = linear(20, beta_end=0.3)
    moves = schedule.transitions(np.linspace(20, 0, num_steps + 1).round())
    counts = {}
    for name, sampler in {"ancestral": ancestral(Variance.SMALL), "ddim": ddim(), "heun": heun()}.items():
        start = sampler.init(jnp.asarray(normal(2, 2)))
        run = partial(advance, sampler, MIXTURE.denoiser, keys(2), state=start)
        counts[name] = int(run(indexed=(jnp.arange(num_steps), moves)).info.evaluations)
    assert counts == {"ancestral": num_steps, "ddim": num_steps, "heun": 2 * num_steps - 1}

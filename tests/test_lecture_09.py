"""Section 9 of the lecture: the posterior average of the noise, by the calculus of variations.

The data are three numbers with equal probabilities, so that every integral over x_0 is a sum and every integral over
x_t is the trapezoidal rule on a grid, which is exact here up to rounding.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.analytic import each

from ddpm_jax.diffusion.analytic import FiniteData
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

LEVEL = linear(1000).level(350)
DATA = FiniteData([[-1.0], [0.1], [0.8]])
X_0 = DATA.points[:, 0]
GRID = np.linspace(-7, 7, 2801)
NOISE = (GRID - LEVEL.signal * X_0[:, None]) / LEVEL.sigma  # eps(x_t | x_0), [3, G]
JOINT = norm.pdf(GRID, LEVEL.signal * X_0[:, None], LEVEL.sigma) / 3  # q(x_0) q(x_t | x_0), [3, G]

# A function that is not the best prediction, and directions in which to change it.
GUESS = 0.2 + 0.5 * np.sin(GRID)
CHANGES = {"constant": np.ones_like(GRID), "line": -0.4 * GRID, "wave": np.sin(3 * GRID), "bump": np.exp(-(GRID**2))}
each_change = each("h", CHANGES)


def integral(values):
    """The integral over x_t of values `[..., G]`."""
    return np.trapezoid(values, GRID)


def loss(prediction):
    """`E |eps - prediction(x_t)|**2`, a double integral."""
    return np.sum(integral((NOISE - prediction) ** 2 * JOINT))


def slope_at_zero(prediction, h):
    """`F_h'(0)` by a central difference; F_h is a parabola, so that only rounding is left."""
    return (loss(prediction + 1e-3 * h) - loss(prediction - 1e-3 * h)) / 2e-3


def density():
    """`q(x_t)` on the grid, by the project."""
    return np.exp(DATA.log_prob(jnp.asarray(GRID[:, None]), LEVEL))


def weights():
    """`q(x_0 | x_t)`, `[3, G]`, by the project."""
    return np.exp(DATA.log_prob_point(jnp.asarray(GRID[:, None]), LEVEL)).T


def best():
    """`E[eps | x_t]` on the grid, by the project."""
    return np.asarray(DATA.denoiser(jnp.asarray(GRID[:, None]), LEVEL).eps)[:, 0]


def gap(prediction):
    """`g(x_t) = e(x_t) - integral of eps(x_t | x_0) q(x_0 | x_t)`."""
    return prediction - best()


def test_9_1_the_loss_is_a_double_integral():
    """Against the expectation over x_0 and eps, by Gauss-Hermite quadrature."""
    nodes, quadrature = np.polynomial.hermite_e.hermegauss(80)
    x_t = LEVEL.signal * X_0[:, None] + LEVEL.sigma * nodes
    error = (nodes - (0.2 + 0.5 * np.sin(x_t))) ** 2
    np.testing.assert_allclose(loss(GUESS), np.mean(error @ quadrature / quadrature.sum()), rtol=1e-10)


def test_9_2_the_joint_density_is_that_of_x_t_times_the_posterior():
    inner = np.sum((NOISE - GUESS) ** 2 * weights(), axis=0)
    np.testing.assert_allclose(integral(inner * density()), loss(GUESS), rtol=1e-10)


@each_change
@pytest.mark.parametrize("a", [-0.7, 0.3])
def test_9_3_along_every_direction_the_loss_is_a_parabola(h, a):
    linear_part = -2 * a * np.sum(integral((NOISE - GUESS) * h * JOINT))
    square = a**2 * integral(h**2 * density())
    np.testing.assert_allclose(loss(GUESS) + linear_part + square, loss(GUESS + a * h), rtol=1e-10)


@each_change
def test_9_4_the_derivative_at_zero(h):
    by_formula = -2 * np.sum(integral((NOISE - GUESS) * h * JOINT))
    np.testing.assert_allclose(by_formula, slope_at_zero(GUESS, h), rtol=1e-8)


def test_9_5_the_inner_integral_is_minus_g():
    inner = np.sum((NOISE - GUESS) * weights(), axis=0)
    np.testing.assert_allclose(inner, -gap(GUESS), rtol=1e-9, atol=1e-10)


@each_change
def test_9_6_the_derivative_is_the_inner_product_with_g(h):
    np.testing.assert_allclose(2 * integral(h * gap(GUESS) * density()), slope_at_zero(GUESS, h), rtol=1e-8)


def test_9_7_in_the_direction_of_g_it_is_the_square_of_g():
    g = gap(GUESS)
    square = 2 * integral(g**2 * density())
    np.testing.assert_allclose(square, slope_at_zero(GUESS, g), rtol=1e-8)
    assert square > 0.01


@each_change
def test_9_8_at_the_posterior_average_every_derivative_is_zero(h):
    average = np.sum(NOISE * JOINT, axis=0) / np.sum(JOINT, axis=0)
    np.testing.assert_allclose(average, best(), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(slope_at_zero(average, h), 0, atol=1e-9)
    assert abs(slope_at_zero(GUESS, h)) > 1e-3


@each_change
def test_9_9_there_every_change_costs_its_square(h):
    np.testing.assert_allclose(loss(best() + 0.4 * h), loss(best()) + 0.16 * integral(h**2 * density()), rtol=1e-10)


def test_9_10_the_weights_are_bayes_rule():
    x_t = jnp.asarray(GRID[::400, None])
    likelihood = norm.pdf(GRID[::400], LEVEL.signal * X_0[:, None], LEVEL.sigma)
    ours = np.exp(DATA.log_prob_point(x_t, LEVEL)).T
    np.testing.assert_allclose(ours, likelihood / likelihood.sum(axis=0), rtol=1e-9)


def test_9_11_the_average_of_the_noise_is_the_noise_of_the_average():
    mean = X_0 @ weights()
    np.testing.assert_allclose((GRID - LEVEL.signal * mean) / LEVEL.sigma, best(), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(np.sum(NOISE * weights(), axis=0), best(), rtol=1e-9, atol=1e-10)


def test_9_12_the_error_that_remains_is_the_posterior_variance():
    """The loss at its minimum; and it is D less the mean square of the prediction: D = 1 here, and 2 in the plane."""
    variance = np.sum((NOISE - best()) ** 2 * weights(), axis=0)
    np.testing.assert_allclose(1 - integral(best() ** 2 * density()), integral(variance * density()), rtol=1e-9)
    np.testing.assert_allclose(integral(variance * density()), loss(best()), rtol=1e-10)
    plane = FiniteData([[-1.0, 0.4], [0.1, -0.9], [0.8, 0.7]])
    side = np.linspace(-8, 8, 161)
    x_t, area = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2), (side[1] - side[0]) ** 2
    average = np.asarray(plane.denoiser(jnp.asarray(x_t), LEVEL).eps)
    eps = (x_t - LEVEL.signal * plane.points[:, None]) / LEVEL.sigma  # [3, G, 2]
    joint = np.prod(norm.pdf(eps), axis=-1) / LEVEL.sigma**2 / 3
    error = np.sum((eps - average) ** 2, axis=-1)
    density_of_plane = np.exp(plane.log_prob(jnp.asarray(x_t), LEVEL))
    explained = np.sum(average**2, axis=-1) @ density_of_plane * area
    posterior = np.exp(plane.log_prob_point(jnp.asarray(x_t), LEVEL)).T
    remains = np.sum(error * posterior, axis=0) @ density_of_plane * area
    np.testing.assert_allclose(2 - explained, remains, rtol=1e-9)
    np.testing.assert_allclose(np.sum(error * joint) * area, remains, rtol=1e-9)

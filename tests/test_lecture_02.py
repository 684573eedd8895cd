"""Section 2 of the lecture: independent noises merge, so noising steps compose, and the marginal is a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import IMAGES, MIXTURE, normal, pick

from ddpm_jax.diffusion.analytic import GaussianMixture
from ddpm_jax.diffusion.gaussian import q_sample, q_step
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
BETAS = np.linspace(1e-4, 0.02, 1000)  # BETAS[t - 1] belongs to t
DATA = GaussianMixture([0.3, 0.7], [[-0.6], [0.5]], [[[0.04]], [[0.09]]])
LINE = np.linspace(-8, 8, 8001)


def normal_density(x, mean, var):
    return np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)


def step(t, s):
    """The transition from t to s."""
    return pick(SCHEDULE.transitions([t, s]), 0)


def alpha_bar(t):
    return np.prod(1 - BETAS[:t])


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_2_1_two_steps_have_two_noises(t):
    x, first, second = normal(3, 4, 2)
    last, before = BETAS[t - 1], BETAS[t - 2]
    both = q_step(q_step(x, first, step(t - 1, t - 2)), second, step(t, t - 1))
    expected = np.sqrt((1 - last) * (1 - before)) * x + np.sqrt((1 - last) * before) * first + np.sqrt(last) * second
    np.testing.assert_allclose(both, expected, rtol=1e-9)


def test_2_2_the_square_is_completed():
    u, z, a, b = *normal(2, 20), 0.6, 1.3
    total = a**2 + b**2
    left = u**2 / a**2 + (z - u) ** 2 / b**2
    np.testing.assert_allclose(left, total / (a * b) ** 2 * (u - a**2 * z / total) ** 2 + z**2 / total, rtol=1e-9)


def test_2_3_two_independent_noises_merge_into_one():
    a, b = 0.6, 1.3
    for z in (-2.0, 0.0, 0.7):
        integral = np.trapezoid(normal_density(LINE, 0, a**2) * normal_density(z - LINE, 0, b**2), LINE)
        np.testing.assert_allclose(integral, normal_density(z, 0, a**2 + b**2), rtol=1e-9)


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_2_4_the_variances_of_two_steps_add_up(t):
    """The right side is the variance of the project's transition over both steps, made of `alpha_bar` alone."""
    last, before = BETAS[t - 1], BETAS[t - 2]
    np.testing.assert_allclose((1 - last) * before + last, step(t, t - 2).beta, rtol=1e-9)
    np.testing.assert_allclose(step(t, t - 2).beta, 1 - (1 - last) * (1 - before), rtol=1e-9)


@pytest.mark.parametrize("t", [1, 500, 999])
def test_2_5_the_signal_of_one_more_step(t):
    one_more = np.sqrt(1 - BETAS[t]) * SCHEDULE.level(t).signal
    np.testing.assert_allclose(one_more, SCHEDULE.level(t + 1).signal, rtol=1e-10)


@pytest.mark.parametrize("t", [1, 500, 999])
def test_2_6_the_variance_of_one_more_step(t):
    one_more = (1 - BETAS[t]) * SCHEDULE.level(t).sigma ** 2 + BETAS[t]
    np.testing.assert_allclose(one_more, SCHEDULE.level(t + 1).sigma ** 2, rtol=1e-10)


@pytest.mark.parametrize("t", [1, 40, 1000])
def test_2_7_every_step_in_turn_ends_in_the_closed_form(t):
    """`q_step` is linear: from 0 and 1 it has the coefficients that carry mean and variance through t steps."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    up = jax.tree.map(lambda leaf: leaf[::-1], SCHEDULE.transitions(np.arange(t, -1, -1)))

    def one_step(moments, move):
        mean, var = moments
        return (q_step(mean, zero, move), q_step(jnp.sqrt(var), zero, move) ** 2 + q_step(zero, one, move) ** 2), None

    (mean, var), _ = jax.lax.scan(one_step, (jnp.asarray(one), jnp.asarray(zero)), up)
    signal, sigma = q_sample(one, zero, SCHEDULE.level(t)), q_sample(zero, one, SCHEDULE.level(t))
    np.testing.assert_allclose([signal[0, 0], sigma[0, 0] ** 2], [mean[0, 0], var[0, 0]], rtol=1e-9)
    np.testing.assert_allclose(signal[0, 0] ** 2, alpha_bar(t), rtol=1e-9)


def test_2_8_chapman_and_kolmogorov():
    s, t, x_0 = 200, 500, 0.7
    between = alpha_bar(t) / alpha_bar(s)
    for x_t in (-1.0, 0.1, 1.4):
        onward = normal_density(x_t, np.sqrt(between) * LINE, 1 - between)
        to_s = normal_density(LINE, np.sqrt(alpha_bar(s)) * x_0, 1 - alpha_bar(s))
        level = SCHEDULE.level(t)
        direct = normal_density(x_t, level.signal * x_0, level.sigma**2)
        np.testing.assert_allclose(np.trapezoid(onward * to_s, LINE), direct, rtol=1e-9)


@pytest.mark.parametrize("t", [50, 300, 1000])
def test_2_9_the_marginal_is_an_integral_over_the_data(t):
    data = np.exp(DATA.log_prob(LINE[:, None]))
    x_t = np.array([-1.2, 0.0, 0.4])
    kernels = normal_density(x_t[:, None], np.sqrt(alpha_bar(t)) * LINE, 1 - alpha_bar(t))
    integral = np.trapezoid(kernels * data, LINE, axis=1)
    np.testing.assert_allclose(np.exp(DATA.log_prob(x_t[:, None], SCHEDULE.level(t))), integral, rtol=1e-8)


@pytest.mark.parametrize("t", [50, 300, 1000])
def test_2_10_the_marginal_of_finite_data_is_a_mixture_of_kernels(t):
    signal, sigma = np.sqrt(alpha_bar(t)), np.sqrt(1 - alpha_bar(t))
    x_t = signal * IMAGES.points[1] + sigma * normal(4, 4, 1)
    kernels = [np.prod(normal_density(x_t, signal * x_0, sigma**2)) for x_0 in IMAGES.points]
    np.testing.assert_allclose(IMAGES.log_prob(x_t[None], SCHEDULE.level(t))[0], np.log(np.mean(kernels)), rtol=1e-9)


@pytest.mark.parametrize("t", [50, 300, 1000])
def test_2_11_mean_and_covariance_of_the_marginal(t):
    """Moments of the noisy density, by integration, against those of the data."""
    side = np.linspace(-6, 6, 241)
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    weights = np.exp(MIXTURE.log_prob(x, SCHEDULE.level(t))) * (side[1] - side[0]) ** 2
    mean = weights @ x
    covariance = (weights[:, None] * (x - mean)).T @ (x - mean)
    np.testing.assert_allclose(mean, np.sqrt(alpha_bar(t)) * MIXTURE.mean, rtol=1e-7)
    np.testing.assert_allclose(
        covariance, alpha_bar(t) * MIXTURE.covariance + (1 - alpha_bar(t)) * np.eye(2), atol=1e-7
    )

"""Section 8 of the lecture: the mean of the reverse step in terms of the noise, and the three meanings of the step."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, each, normal, pick

from ddpm_jax.diffusion.gaussian import q_posterior, q_sample
from ddpm_jax.diffusion.prediction import x_0_from_eps
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
X_T, EPS = normal(2, 5, 2)
TIMES = {"neighbours": (300, 299), "first": (2, 1), "far": (700, 150), "last": (40, 0)}
each_pair = each("times", TIMES)


def scales(times):
    """`(alpha_bar_t, alpha_bar_s, beta)` of two times."""
    alpha_bar_t, alpha_bar_s = SCHEDULE.alpha_bar[list(times)]
    return alpha_bar_t, alpha_bar_s, 1 - alpha_bar_t / alpha_bar_s


def transition(times):
    return pick(SCHEDULE.transitions(times), 0)


@each_pair
def test_8_1_the_noise_determines_the_image(times):
    a_t, _, _ = scales(times)
    x_0 = (X_T - np.sqrt(1 - a_t) * EPS) / np.sqrt(a_t)
    np.testing.assert_allclose(q_sample(x_0, EPS, SCHEDULE.level(times[0])), X_T, rtol=1e-9)


@each_pair
def test_8_2_the_image_is_put_into_mu_tilde(times):
    a_t, a_s, beta = scales(times)
    inserted = np.sqrt(a_s) * beta / (1 - a_t) * (X_T - np.sqrt(1 - a_t) * EPS) / np.sqrt(a_t)
    inserted = inserted + np.sqrt(1 - beta) * (1 - a_s) / (1 - a_t) * X_T
    move = transition(times)
    expected, _ = q_posterior(x_0_from_eps(EPS, X_T, move.now), X_T, move)
    np.testing.assert_allclose(inserted, expected, rtol=1e-9)


@each_pair
def test_8_3_the_common_factor(times):
    a_t, a_s, beta = scales(times)
    move = transition(times)
    inner = beta / (1 - a_t) * (X_T - np.sqrt(1 - a_t) * EPS) + (1 - beta) * (1 - a_s) / (1 - a_t) * X_T
    expected, _ = q_posterior(x_0_from_eps(EPS, X_T, move.now), X_T, move)
    np.testing.assert_allclose(inner / np.sqrt(1 - beta), expected, rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(a_s / a_t), 1 / np.sqrt(1 - beta), rtol=1e-12)


@each_pair
def test_8_4_the_factors_of_x_t_add_up_to_one(times):
    """The left side is the coefficient of x_t in the mean times `sqrt(1 - beta)`, read off at eps = 0."""
    move = transition(times)
    ones, zeros = np.ones((1, 1)), np.zeros((1, 1))
    mean, _ = q_posterior(x_0_from_eps(zeros, ones, move.now), ones, move)
    a_t, a_s, beta = scales(times)
    np.testing.assert_allclose(mean * np.sqrt(1 - beta), 1, rtol=1e-9)
    np.testing.assert_allclose((beta + (1 - beta) * (1 - a_s)) / (1 - a_t), 1, rtol=1e-10)


@each_pair
def test_8_5_the_factor_of_the_noise(times):
    """The left side is read off at x_t = 0."""
    move = transition(times)
    ones, zeros = np.ones((1, 1)), np.zeros((1, 1))
    mean, _ = q_posterior(x_0_from_eps(ones, zeros, move.now), zeros, move)
    a_t, _, beta = scales(times)
    np.testing.assert_allclose(-mean * np.sqrt(1 - beta), beta / np.sqrt(1 - a_t), rtol=1e-9)


@each_pair
def test_8_6_the_mean_in_terms_of_the_noise(times):
    a_t, _, beta = scales(times)
    move, x_t = transition(times), jnp.asarray(X_T)
    prediction = MIXTURE.denoiser(x_t, move.now)
    by_noise = (x_t - beta / np.sqrt(1 - a_t) * prediction.eps) / np.sqrt(1 - beta)
    by_image, _ = p_mean_log_var(prediction, x_t, move, Variance.SMALL)
    np.testing.assert_allclose(by_noise, by_image, rtol=1e-8, atol=1e-12)


def scaled(times):
    """`x_t / sqrt(alpha_bar_t)`, the estimate of x_0, and the mean of x_s over `sqrt(alpha_bar_s)`, all `[5, 2]`."""
    move, x_t = transition(times), jnp.asarray(X_T)
    prediction = MIXTURE.denoiser(x_t, move.now)
    mean, _ = p_mean_log_var(prediction, x_t, move, Variance.SMALL)
    return x_t / move.now.signal, prediction, mean / move.next.signal


@each_pair
def test_8_7_the_noise_points_from_the_image_to_x_t(times):
    a_t, _, _ = scales(times)
    x_bar, prediction, _ = scaled(times)
    np.testing.assert_allclose(-np.sqrt(1 - a_t) / np.sqrt(a_t) * prediction.eps, prediction.x_0 - x_bar, rtol=1e-8)


@each_pair
def test_8_8_the_step_has_the_same_direction(times):
    a_t, _, beta = scales(times)
    x_bar, prediction, mean = scaled(times)
    np.testing.assert_allclose(beta / (1 - a_t) * (prediction.x_0 - x_bar), mean - x_bar, rtol=1e-7, atol=1e-12)
    by_noise = -beta / np.sqrt(a_t * (1 - a_t)) * prediction.eps
    np.testing.assert_allclose(by_noise, mean - x_bar, rtol=1e-7, atol=1e-12)


@each_pair
def test_8_9_the_step_ends_nearer_to_the_image(times):
    a_t, _, beta = scales(times)
    x_bar, prediction, mean = scaled(times)
    distance = lambda x: np.linalg.norm(x - prediction.x_0, axis=-1)
    np.testing.assert_allclose((1 - beta / (1 - a_t)) * distance(x_bar), distance(mean), rtol=1e-7, atol=1e-9)
    assert np.all(distance(mean) < distance(x_bar))

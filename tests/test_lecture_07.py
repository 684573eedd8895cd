"""Section 7 of the lecture: the distribution of x_s given x_t, alone and with x_0, by completing the square.

All numbers are one-dimensional, and s < t are any two times of the linear schedule.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.analytic import each, pick

from ddpm_jax.diffusion.analytic import FiniteData
from ddpm_jax.diffusion.gaussian import q_posterior
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
X_0 = 0.6
TIMES = {"neighbours": (300, 299), "first": (2, 1), "far": (700, 150)}
each_pair = each("times", TIMES)


def scales(times):
    """`(alpha_bar_t, alpha_bar_s, beta)` of two times."""
    alpha_bar_t, alpha_bar_s = SCHEDULE.alpha_bar[list(times)]
    return alpha_bar_t, alpha_bar_s, 1 - alpha_bar_t / alpha_bar_s


def values(times):
    """A noisy number x_t of `X_0`, and nine values of x_s around those that are probable."""
    a_t, a_s, _ = scales(times)
    return np.sqrt(a_t) * X_0 - 1.3 * np.sqrt(1 - a_t), np.sqrt(a_s) * X_0 + np.sqrt(1 - a_s) * np.linspace(-3, 3, 9)


def log_kernel(x, start, keep, var):
    """The log density of `N(sqrt(keep) start, var)` at x."""
    return norm.logpdf(x, np.sqrt(keep) * start, np.sqrt(var))


def log_product(x_s, times):
    """`log [q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)]`: Bayes' rule, given x_0."""
    a_t, a_s, beta = scales(times)
    x_t, _ = values(times)
    both = log_kernel(x_t, x_s, 1 - beta, beta) + log_kernel(x_s, X_0, a_s, 1 - a_s)
    return both - log_kernel(x_t, X_0, a_t, 1 - a_t)


def coefficients(times):
    """A, B and C of the exponent `-(A x_s**2 - 2 B x_s + C) / 2`."""
    a_t, a_s, beta = scales(times)
    x_t, _ = values(times)
    return (
        (1 - beta) / beta + 1 / (1 - a_s),
        np.sqrt(1 - beta) / beta * x_t + np.sqrt(a_s) / (1 - a_s) * X_0,
        x_t**2 / beta + a_s * X_0**2 / (1 - a_s) - (x_t - np.sqrt(a_t) * X_0) ** 2 / (1 - a_t),
    )


@each_pair
def test_7_1_without_the_image_the_reverse_step_is_a_sum_over_all_images(times):
    """The left side is Bayes' rule with the densities of noisy data, the right side weights a Gaussian per image."""
    _, _, beta = scales(times)
    x_t, x_s = values(times)
    data = FiniteData([[-1.0], [0.1], [0.8]])
    level_t, level_s = SCHEDULE.level(times[0]), SCHEDULE.level(times[1])
    log_q_s = data.log_prob(jnp.asarray(x_s[:, None]), level_s)
    log_q_t = data.log_prob(jnp.array([[x_t]]), level_t)
    by_bayes = np.exp(log_kernel(x_t, x_s, 1 - beta, beta) + log_q_s - log_q_t)
    weights = np.exp(data.log_prob_point(jnp.array([[x_t]]), level_t))[0]
    move = pick(SCHEDULE.transitions(times), 0)
    parts = [q_posterior(jnp.asarray(x_0), jnp.array([x_t]), move) for x_0 in data.points]
    total = sum(
        w * norm.pdf(x_s, float(mean[0]), np.exp(log_var / 2))
        for w, (mean, log_var) in zip(weights, parts, strict=True)
    )
    np.testing.assert_allclose(total, by_bayes, rtol=1e-8)


@each_pair
def test_7_2_given_the_image_bayes_rule_has_three_known_gaussians(times):
    """Against the conditional of the joint Gaussian of x_s and x_t, by its covariances."""
    a_t, a_s, beta = scales(times)
    x_t, x_s = values(times)
    covariance = np.sqrt(1 - beta) * (1 - a_s)
    mean = np.sqrt(a_s) * X_0 + covariance / (1 - a_t) * (x_t - np.sqrt(a_t) * X_0)
    var = (1 - a_s) - covariance**2 / (1 - a_t)
    np.testing.assert_allclose(log_product(x_s, times), norm.logpdf(x_s, mean, np.sqrt(var)), rtol=1e-8, atol=1e-8)


@each_pair
def test_7_3_the_exponent_is_a_sum_of_three_squares(times):
    """With the factors before the three exponentials, which make the second term."""
    a_t, a_s, beta = scales(times)
    x_t, x_s = values(times)

    def exponent(x_s):
        steps = (x_t - np.sqrt(1 - beta) * x_s) ** 2 / beta + (x_s - np.sqrt(a_s) * X_0) ** 2 / (1 - a_s)
        return -0.5 * (steps - (x_t - np.sqrt(a_t) * X_0) ** 2 / (1 - a_t))

    scale = -0.5 * np.log(2 * np.pi * beta * (1 - a_s) / (1 - a_t))
    np.testing.assert_allclose(exponent(x_s) + scale, log_product(x_s, times), rtol=1e-9, atol=1e-9)


@each_pair
def test_7_4_the_exponent_is_a_quadratic_function(times):
    a_t, a_s, beta = scales(times)
    x_t, x_s = values(times)
    A, B, C = coefficients(times)
    steps = (x_t - np.sqrt(1 - beta) * x_s) ** 2 / beta + (x_s - np.sqrt(a_s) * X_0) ** 2 / (1 - a_s)
    squares = steps - (x_t - np.sqrt(a_t) * X_0) ** 2 / (1 - a_t)
    np.testing.assert_allclose(A * x_s**2 - 2 * B * x_s + C, squares, rtol=1e-8, atol=1e-8)


@each_pair
def test_7_5_completing_the_square(times):
    """Against a parabola through three of the values."""
    A, B, C = coefficients(times)
    _, x_s = values(times)
    fitted = np.polynomial.Polynomial.fit(x_s[:3], A * x_s[:3] ** 2 - 2 * B * x_s[:3] + C, 2)
    lowest = fitted.deriv().roots()[0]
    np.testing.assert_allclose(B / A, lowest, rtol=1e-7)
    np.testing.assert_allclose(A * (x_s - B / A) ** 2 + C - B**2 / A, fitted(x_s), rtol=1e-7, atol=1e-6)


@each_pair
def test_7_6_two_steps_of_noise_are_one_longer_step(times):
    _, a_s, beta = scales(times)
    np.testing.assert_allclose((1 - beta) * (1 - a_s) + beta, SCHEDULE.level(times[0]).sigma ** 2, rtol=1e-12)
    np.testing.assert_allclose(1 - (1 - beta) * a_s, SCHEDULE.level(times[0]).sigma ** 2, rtol=1e-12)


@each_pair
def test_7_7_the_precision_is_the_sum_of_two_precisions(times):
    a_t, a_s, beta = scales(times)
    A, _, _ = coefficients(times)
    np.testing.assert_allclose((1 - a_t) / (beta * (1 - a_s)), A, rtol=1e-11)


@each_pair
def test_7_8_beta_tilde(times):
    a_t, a_s, beta = scales(times)
    A, _, _ = coefficients(times)
    move = pick(SCHEDULE.transitions(times), 0)
    np.testing.assert_allclose((1 - a_s) / (1 - a_t) * beta, 1 / A, rtol=1e-11)
    np.testing.assert_allclose(np.exp(move.log_var_small), 1 / A, rtol=1e-9)


@each_pair
def test_7_9_mu_tilde(times):
    a_t, a_s, beta = scales(times)
    x_t, _ = values(times)
    A, B, _ = coefficients(times)
    mean = np.sqrt(a_s) * beta / (1 - a_t) * X_0 + np.sqrt(1 - beta) * (1 - a_s) / (1 - a_t) * x_t
    np.testing.assert_allclose(mean, B / A, rtol=1e-10)
    ours, _ = q_posterior(jnp.array([X_0]), jnp.array([x_t]), pick(SCHEDULE.transitions(times), 0))
    np.testing.assert_allclose(ours[0], B / A, rtol=1e-9)


@each_pair
def test_7_10_nothing_is_left_over(times):
    """`C = B**2 / A`, so that the product is the density of `N(mu_tilde, beta_tilde)` without another factor."""
    A, B, C = coefficients(times)
    _, x_s = values(times)
    np.testing.assert_allclose(C, B**2 / A, rtol=1e-8)
    np.testing.assert_allclose(log_product(x_s, times), norm.logpdf(x_s, B / A, A**-0.5), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [2, 300, 1000])
def test_7_11_between_neighbours_the_notes_formula(t):
    alpha_bar, beta_t = SCHEDULE.alpha_bar, SCHEDULE.beta[t - 1]
    x_t, _ = values((t, t - 1))
    mean = np.sqrt(alpha_bar[t - 1]) * beta_t / (1 - alpha_bar[t]) * X_0
    mean = mean + np.sqrt(1 - beta_t) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * x_t
    line = mean + 10 * np.sqrt(beta_t) * np.linspace(-1, 1, 4001)
    weight = np.exp(log_product(line, (t, t - 1)))
    step = line[1] - line[0]
    np.testing.assert_allclose(mean, np.sum(line * weight) * step, rtol=1e-7)
    var = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta_t
    np.testing.assert_allclose(var, np.sum((line - mean) ** 2 * weight) * step, rtol=1e-6)


@each_pair
def test_7_12_a_reverse_step_keeps_the_distribution_given_the_image(times):
    """The mean and the variance of x_s, if x_t is drawn from q(x_t | x_0) and x_s from the posterior."""
    a_t, a_s, _ = scales(times)
    move = pick(SCHEDULE.transitions(times), 0)
    at = lambda x_t: float(q_posterior(jnp.array([X_0]), jnp.array([x_t]), move)[0][0])
    slope = at(1.0) - at(0.0)
    np.testing.assert_allclose(at(np.sqrt(a_t) * X_0), np.sqrt(a_s) * X_0, rtol=1e-10)
    np.testing.assert_allclose(slope**2 * (1 - a_t) + np.exp(move.log_var_small), 1 - a_s, rtol=1e-9)

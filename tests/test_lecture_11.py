"""Row 11 of the lecture: the divergence of two Gaussians, and its way to the weighted error of the noise.

Expectations are sums over the nodes of a Gauss-Hermite rule in two dimensions, exact for quadratic forms. The last
lines are asserted with the project's terms and losses.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from support.analytic import keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import normal_kl_nats, q_posterior
from ddpm_jax.diffusion.likelihood import bound_term, term_nats
from ddpm_jax.diffusion.losses import l_simple
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

MEAN_1, MEAN_2 = np.array([0.4, -0.7]), np.array([-0.3, 0.5])
COV_1, COV_2 = np.array([[0.5, 0.2], [0.2, 0.3]]), np.array([[1.1, -0.4], [-0.4, 0.6]])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(4)
Z = np.array(list(itertools.product(NODES, repeat=2)))
W = np.prod(list(itertools.product(WEIGHTS / WEIGHTS.sum(), repeat=2)), axis=1)
X = MEAN_1 + Z @ np.linalg.cholesky(COV_1).T  # nodes of N(MEAN_1, COV_1), with the weights W
P_1, P_2 = Gaussian(MEAN_1, COV_1), Gaussian(MEAN_2, COV_2)

SCHEDULE = linear(50, beta_start=1e-3, beta_end=0.2)
STEPS = SCHEDULE.transitions()
TIMES = np.array([50, 31, 12, 2])
STEP = pick(STEPS, 50 - TIMES)
CLEAN = np.tanh(normal(4, 3, seed=1))


def network(x_t, level):
    """Some prediction of the noise, not the best one."""
    eps = jnp.tanh(0.8 * x_t) + 0.1
    signal, sigma = (jnp.reshape(a, (-1, 1)) for a in (level.signal, level.sigma))
    return Prediction((x_t - sigma * eps) / signal, eps)


def quadratic(x, mean, matrix):
    """`(x - mean)^T matrix (x - mean)` `[N]`."""
    return np.einsum("ni,ij,nj->n", x - mean, matrix, x - mean)


def noisy():
    """Noise and the noisy images at TIMES, and the network's prediction there."""
    eps = normal(4, 3, seed=2)
    x_t = np.sqrt(SCHEDULE.alpha_bar[TIMES])[:, None] * CLEAN + np.sqrt(1 - SCHEDULE.alpha_bar[TIMES])[:, None] * eps
    return eps, jnp.asarray(x_t), network(jnp.asarray(x_t), STEP.now)


def weight_of_the_bound(var):
    """`beta**2 / (2 var alpha (1 - alpha_bar))` at TIMES, for a variance of p."""
    alpha_bar = SCHEDULE.alpha_bar
    alpha = alpha_bar[TIMES] / alpha_bar[TIMES - 1]
    return (1 - alpha) ** 2 / (2 * var * alpha * (1 - alpha_bar[TIMES]))


def test_11_1_the_log_density_has_a_log_det_and_a_quadratic_form():
    by_hand = -0.5 * (2 * np.log(2 * np.pi) + np.log(np.linalg.det(COV_2)) + quadratic(X, MEAN_2, np.linalg.inv(COV_2)))
    np.testing.assert_allclose(P_2.log_prob(X), by_hand, rtol=1e-9)


def test_11_2_the_constants_cancel_in_the_log_ratio():
    log_dets = np.linalg.slogdet(COV_2)[1] - np.linalg.slogdet(COV_1)[1]
    forms = quadratic(X, MEAN_2, np.linalg.inv(COV_2)) - quadratic(X, MEAN_1, np.linalg.inv(COV_1))
    np.testing.assert_allclose(P_1.log_prob(X) - P_2.log_prob(X), 0.5 * (log_dets + forms), rtol=1e-9)


def test_11_3_the_expectation_of_a_quadratic_form_is_a_trace():
    matrix = np.array([[0.7, 0.3], [-0.2, 1.9]])
    np.testing.assert_allclose(W @ quadratic(X, MEAN_1, matrix), np.trace(matrix @ COV_1), rtol=1e-9)


def test_11_4_the_first_form_is_the_dimension():
    np.testing.assert_allclose(W @ quadratic(X, MEAN_1, np.linalg.inv(COV_1)), 2, rtol=1e-9)


def test_11_5_the_second_form_is_a_trace_and_a_distance_of_the_means():
    inverse, gap = np.linalg.inv(COV_2), MEAN_1 - MEAN_2
    parts = np.trace(inverse @ COV_1) + gap @ inverse @ gap
    np.testing.assert_allclose(W @ quadratic(X, MEAN_2, inverse), parts, rtol=1e-9)


def test_11_6_the_divergence_of_two_gaussians():
    inverse, gap = np.linalg.inv(COV_2), MEAN_1 - MEAN_2
    log_dets = np.log(np.linalg.det(COV_2) / np.linalg.det(COV_1))
    formula = 0.5 * (log_dets - 2 + np.trace(inverse @ COV_1) + gap @ inverse @ gap)
    first, second = multivariate_normal(MEAN_1, COV_1), multivariate_normal(MEAN_2, COV_2)
    np.testing.assert_allclose(W @ (first.logpdf(X) - second.logpdf(X)), formula, rtol=1e-9)


def test_11_7_with_multiples_of_the_identity_it_is_a_sum_over_pixels():
    """The project's function of one pixel, summed, against the whole formula with matrices."""
    var_1, var_2, dim = 0.3, 0.8, 3
    mean_1, mean_2 = normal(dim, seed=3), normal(dim, seed=4)
    nats = jnp.sum(normal_kl_nats(mean_1, np.log(var_1), mean_2, np.log(var_2)))
    distance = np.sum((mean_1 - mean_2) ** 2)
    short = 0.5 * (dim * (np.log(var_2 / var_1) + var_1 / var_2 - 1) + distance / var_2)
    cov_1, cov_2 = var_1 * np.eye(dim), var_2 * np.eye(dim)
    log_dets = np.linalg.slogdet(cov_2)[1] - np.linalg.slogdet(cov_1)[1]
    whole = 0.5 * (log_dets - dim + np.trace(np.linalg.inv(cov_2) @ cov_1) + distance / var_2)
    np.testing.assert_allclose(nats, short, rtol=1e-9)
    np.testing.assert_allclose(nats, whole, rtol=1e-9)


@pytest.mark.parametrize("variance", [Variance.SMALL, Variance.LARGE])
def test_11_8_with_a_fixed_variance_only_the_distance_of_the_means_is_trained(variance):
    """The rest is the same for every network, and 0 for the variance of the posterior."""
    _, x_t, said = noisy()
    rest = []
    for prediction in (said, Prediction(said.x_0 + 0.3, said.eps)):
        nats = term_nats(prediction, CLEAN, x_t, transition=STEP, variance=variance)
        true, _ = q_posterior(CLEAN, x_t, STEP)
        mean, log_var = p_mean_log_var(prediction, x_t, STEP, variance)
        distance = np.sum((np.asarray(true) - np.asarray(mean)) ** 2, axis=1)
        rest.append(np.asarray(nats) - distance / (2 * np.exp(np.ravel(log_var))))
    np.testing.assert_allclose(*rest, atol=1e-9)
    ratio = 1.0 if variance is Variance.SMALL else np.exp(STEP.log_var_small - STEP.log_var_large)
    np.testing.assert_allclose(rest[0], 3 / 2 * (ratio - 1 - np.log(ratio)) * np.ones(4), atol=1e-9)


def test_11_9_the_distance_of_the_means_is_that_of_the_noises():
    eps, x_t, said = noisy()
    alpha_bar, alpha = SCHEDULE.alpha_bar[TIMES], (1 - SCHEDULE.beta)[TIMES - 1]
    factor = (1 - alpha) / np.sqrt(alpha * (1 - alpha_bar))
    true, _ = q_posterior(CLEAN, x_t, STEP)
    mean, _ = p_mean_log_var(said, x_t, STEP, Variance.SMALL)
    np.testing.assert_allclose(np.asarray(true) - mean, factor[:, None] * (np.asarray(said.eps) - eps), rtol=1e-8)


def test_11_10_a_term_is_the_weighted_error_of_the_noise():
    """The term of the project, whose noise is drawn from keys, and the norm as a sum over three pixels."""
    term = bound_term(network, CLEAN, keys(4), transition=STEP, variance=Variance.SMALL)
    x_t = STEP.now.signal[:, None] * CLEAN + STEP.now.sigma[:, None] * noise_like(keys(4), CLEAN)
    error = np.sum((noise_like(keys(4), CLEAN) - network(x_t, STEP.now).eps) ** 2, axis=1)
    alpha_bar = SCHEDULE.alpha_bar
    beta_tilde = (1 - alpha_bar[TIMES - 1]) / (1 - alpha_bar[TIMES]) * SCHEDULE.beta[TIMES - 1]
    np.testing.assert_allclose(term["nats"], weight_of_the_bound(beta_tilde) * error, rtol=1e-8)


def test_11_11_the_weight_is_a_ratio_of_signal_to_noise_ratios():
    snr = lambda t: SCHEDULE.alpha_bar[t] / (1 - SCHEDULE.alpha_bar[t])
    alpha_bar = SCHEDULE.alpha_bar
    beta_tilde = (1 - alpha_bar[TIMES - 1]) / (1 - alpha_bar[TIMES]) * SCHEDULE.beta[TIMES - 1]
    weight = weight_of_the_bound(beta_tilde)
    before, now = alpha_bar[TIMES - 1], alpha_bar[TIMES]
    np.testing.assert_allclose(weight, SCHEDULE.beta[TIMES - 1] * before / (2 * (1 - before) * now), rtol=1e-9)
    np.testing.assert_allclose(weight, (before - now) / (2 * (1 - before) * now), rtol=1e-9)
    np.testing.assert_allclose(weight, 0.5 * (snr(TIMES - 1) / snr(TIMES) - 1), rtol=1e-9)


def test_11_12_the_sum_over_times_is_t_times_the_mean_and_l_simple_is_that_with_weight_one():
    """L_simple of the project over all times, whose norm is a mean over pixels, against a sum over times by hand."""
    x_0, noise_keys = np.broadcast_to(CLEAN[:1], (50, 3)), keys(50)
    eps = np.asarray(noise_like(noise_keys, x_0))
    alpha_bar = SCHEDULE.alpha_bar[50:0:-1, None]
    error = np.sum((np.tanh(0.8 * (np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps)) + 0.1 - eps) ** 2, axis=1)
    ours = l_simple()(network, x_0, noise_keys, STEPS)["loss"]
    np.testing.assert_allclose(50 * 3 * np.mean(ours), sum(error), rtol=1e-8)


@pytest.mark.parametrize("t", [2, 20, 50])
def test_11_13_with_unlimited_capacity_the_weight_does_not_move_the_minimum(t):
    """A straight line for each t, the best one for Gaussian data, found by least squares for two weights."""
    mean, var = 0.3, 0.4
    signal, sigma = np.sqrt(SCHEDULE.alpha_bar[t]), np.sqrt(1 - SCHEDULE.alpha_bar[t])
    x_0, eps = mean + np.sqrt(var) * Z[:, 0], Z[:, 1]
    x_t = signal * x_0 + sigma * eps

    for weight in (1.0, 0.5 * (t + 37.0)):
        root = np.sqrt(weight * W)
        line, *_ = np.linalg.lstsq(root[:, None] * np.stack([x_t, np.ones_like(x_t)], axis=1), root * eps)
        slope, offset = line
        at = Gaussian([mean], [[var]]).denoiser(np.array([[0.0], [1.0]]), SCHEDULE.level(t)).eps
        np.testing.assert_allclose([offset, offset + slope], at[:, 0], rtol=1e-8)

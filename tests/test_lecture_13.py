"""Row 13 of the lecture: the variance of the reverse step between its two extremes, and the best for Gaussian data.

The true variance of x_{t-1} given x_t is taken from the covariance of the pair (x_{t-1}, x_t), or from quadrature of
Bayes' rule, without the posterior given x_0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.analytic import keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.gaussian import normal_kl_nats
from ddpm_jax.diffusion.losses import l_hybrid, l_simple, l_vlb
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(40, beta_start=1e-3, beta_end=0.25)
STEPS = SCHEDULE.transitions()
TIMES = np.array([40, 17, 5, 2])
STEP = pick(STEPS, 40 - TIMES)
A_T, A_S, BETA = SCHEDULE.alpha_bar[TIMES], SCHEDULE.alpha_bar[TIMES - 1], SCHEDULE.beta[TIMES - 1]
BETA_TILDE = np.exp(STEP.log_var_small)
SPREADS = [0.0, 0.02, 0.4, 1.0]


def true_var(c):
    """The variance of x_{t-1} given x_t at TIMES, for Gaussian data of variance c, by the regression on x_t."""
    var_s, var_t = A_S * c + 1 - A_S, A_T * c + 1 - A_T
    covariance = np.sqrt(1 - BETA) * var_s
    return var_s - covariance**2 / var_t


def spread_of_x_0(c):
    """The variance of x_0 given x_t at TIMES, for Gaussian data of variance c, by the regression on x_t."""
    return c - A_T * c**2 / (A_T * c + 1 - A_T)


def test_13_1_the_variance_is_the_posteriors_and_that_of_its_mean():
    """For data at three points: the variance of x_{t-1} given x_t by Bayes' rule on a grid."""
    points, line, x_t = np.array([-0.8, 0.1, 0.9]), np.linspace(-6, 6, 6001), 0.35
    for i in range(len(TIMES)):
        s = pick(STEP, i)
        prior = norm.pdf(line[:, None], np.sqrt(A_S[i]) * points, np.sqrt(1 - A_S[i])).mean(axis=1)
        bayes = prior * norm.pdf(x_t, np.sqrt(1 - BETA[i]) * line, np.sqrt(BETA[i]))
        bayes /= bayes.sum()
        grid = bayes @ line**2 - (bayes @ line) ** 2
        fit = norm.pdf(x_t, np.sqrt(A_T[i]) * points, np.sqrt(1 - A_T[i]))
        fit /= fit.sum()
        spread = fit @ points**2 - (fit @ points) ** 2
        total = np.exp(s.log_var_small) + (s.next.signal * s.beta / s.now.sigma**2) ** 2 * spread
        np.testing.assert_allclose(grid, total, rtol=1e-6)


def test_13_2_a_single_point_leaves_beta_tilde():
    np.testing.assert_allclose(true_var(0.0), (1 - A_S) / (1 - A_T) * BETA, rtol=1e-9)


def test_13_3_for_standard_normal_data_x_0_given_x_t_has_the_variance_of_the_noise():
    """The posterior by quadrature."""
    line = np.linspace(-8, 8, 4001)
    for a in A_T:
        bayes = norm.pdf(line) * norm.pdf(0.4, np.sqrt(a) * line, np.sqrt(1 - a))
        bayes /= bayes.sum()
        np.testing.assert_allclose(bayes @ line**2 - (bayes @ line) ** 2, 1 - a, rtol=1e-8)


def test_13_4_put_in_the_brackets_add_to_one_minus_alpha_bar():
    total = BETA_TILDE + (np.sqrt(A_S) * BETA / (1 - A_T)) ** 2 * (1 - A_T)
    np.testing.assert_allclose(total, BETA * (1 - A_S + A_S * BETA) / (1 - A_T), rtol=1e-9)


def test_13_5_standard_normal_data_leave_beta():
    np.testing.assert_allclose(1 - A_S + A_S * BETA, 1 - A_T, rtol=1e-9)
    np.testing.assert_allclose(true_var(1.0), BETA, rtol=1e-9)


@pytest.mark.parametrize("c", [0.02, 0.4, 1.0, 3.0])
def test_13_6_precisions_add(c):
    """The variance of x_0 given x_t by quadrature of Bayes' rule, against the sum of the precisions."""
    for a in A_T:
        width = 1 / np.sqrt(1 / c + a / (1 - a))
        line = np.linspace(-12, 12, 6001) * width + a**0.5 * 0.4 * width**2 / (1 - a)
        bayes = norm.pdf(line, 0, np.sqrt(c)) * norm.pdf(0.4, np.sqrt(a) * line, np.sqrt(1 - a))
        bayes /= bayes.sum()
        spread = bayes @ line**2 - (bayes @ line) ** 2
        np.testing.assert_allclose(spread, 1 / (1 / c + a / (1 - a)), rtol=1e-7)
        np.testing.assert_allclose(spread, c * (1 - a) / (a * c + 1 - a), rtol=1e-7)


@pytest.mark.parametrize("c", SPREADS)
def test_13_7_on_one_denominator(c):
    var_t = A_T * c + 1 - A_T
    total = BETA_TILDE + (np.sqrt(A_S) * BETA / (1 - A_T)) ** 2 * spread_of_x_0(c)
    one = BETA * ((1 - A_S) * var_t + A_S * BETA * c) / ((1 - A_T) * var_t)
    np.testing.assert_allclose(total, one, rtol=1e-9)


@pytest.mark.parametrize("c", SPREADS)
def test_13_8_the_bracket_is_a_product(c):
    var_s, var_t = A_S * c + 1 - A_S, A_T * c + 1 - A_T
    np.testing.assert_allclose((1 - A_S) * var_t + A_S * BETA * c, (1 - A_T) * var_s, rtol=1e-9)


@pytest.mark.parametrize("c", SPREADS)
def test_13_9_the_true_variance_for_gaussian_data(c):
    var_s, var_t = A_S * c + 1 - A_S, A_T * c + 1 - A_T
    np.testing.assert_allclose(true_var(c), BETA * var_s / var_t, rtol=1e-9)


def test_13_10_it_rises_with_the_spread_from_beta_tilde_to_beta():
    """The derivative in c by automatic differentiation, and the order of the values."""
    for i in range(len(TIMES)):
        var = lambda c, i=i: BETA[i] * (A_S[i] * c + 1 - A_S[i]) / (A_T[i] * c + 1 - A_T[i])
        slope = jax.grad(var)(0.3)
        exact = BETA[i] * (A_S[i] - A_T[i]) / (A_T[i] * 0.3 + 1 - A_T[i]) ** 2
        np.testing.assert_allclose(slope, exact, rtol=1e-9)
        assert slope > 0
    assert np.all(np.diff([true_var(c) for c in np.linspace(0, 1, 20)], axis=0) > 0)


@pytest.mark.parametrize("c", [0.02, 0.4, 1.0])
def test_13_11_the_bound_is_least_at_the_true_variance(c):
    """The expected divergence and its slope in the variance, by a rule over x_t and by automatic differentiation."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    distance = np.sqrt(A_S) * BETA / (1 - A_T) * np.sqrt(spread_of_x_0(c))  # of the posterior's mean from the network's
    for i in range(len(TIMES)):
        d = jnp.asarray(distance[i] * nodes)

        def term(var, i=i, d=d):
            return (weights / weights.sum()) @ normal_kl_nats(d, STEP.log_var_small[i], 0.0, jnp.log(var))

        best = true_var(c)[i]
        np.testing.assert_allclose(best * jax.grad(term)(best), 0, atol=1e-9)
        for var in (0.6 * best, 1.4 * best):
            formula = 0.5 / var - 0.5 * best / var**2
            np.testing.assert_allclose(jax.grad(term)(var), formula, rtol=1e-8)
            assert term(var) > term(best)


@pytest.mark.parametrize("share", [0.3, 1.0, 2.5])
def test_13_12_a_wrong_variance_costs_half_of_r_minus_one_minus_log_r(share):
    best = true_var(0.4)
    cost = normal_kl_nats(jnp.zeros(4), np.log(best), 0.0, np.log(best / share))
    np.testing.assert_allclose(cost, 0.5 * (share - 1 - np.log(share)), rtol=1e-9)


def test_13_13_v_of_gaussian_data_lies_between_zero_and_one():
    """Given to the project as the network's second output, it is the true variance."""
    for c in (0.02, 0.4, 1.0):
        v = np.log(true_var(c) / BETA_TILDE) / np.log(BETA / BETA_TILDE)
        said = Prediction(jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.asarray(v)[:, None])
        _, log_var = p_mean_log_var(said, jnp.zeros((4, 1)), STEP, Variance.LEARNED)
        np.testing.assert_allclose(np.exp(log_var)[:, 0], BETA * (A_S * c + 1 - A_S) / (A_T * c + 1 - A_T), rtol=1e-9)
        assert np.all((v > 0) & (v < 1 + 1e-9))


def test_13_14_the_bound_trains_the_variance_and_not_the_mean():
    """The gradient of the hybrid loss by the noise is that of L_simple; by v it is that of the bound."""
    x_0, data = np.tanh(normal(4, 2, 2, 1)), Gaussian([0.1], [[0.3]])

    def loss(kind, shift, v):
        def denoise(x_t, level):
            flat = data.denoiser(x_t.reshape(4, 4)[:, :1], level).eps
            eps = shift + 0 * x_t + flat[:, :, None, None]
            signal, sigma = (a[:, None, None, None] for a in (level.signal, level.sigma))
            return Prediction((x_t - sigma * eps) / signal, eps, v + 0 * x_t)

        return jnp.sum(kind(denoise, x_0, keys(4), STEP)["loss"])

    gradient = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
    by_mean, by_v = gradient(l_hybrid(40, vlb_weight=0.5), 0.2, 0.4)
    by_simple, nothing = gradient(l_simple(), 0.2, 0.4)
    by_bound = gradient(l_vlb(40), 0.2, 0.4)[1]
    assert (by_mean, nothing) == (by_simple, 0)
    np.testing.assert_allclose(by_v, 0.5 * by_bound, rtol=1e-9)
    assert by_v != 0

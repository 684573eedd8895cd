"""Row 10 of the lecture: the bound, line by line, on a chain of three steps of numbers, where every term is exact.

The model is the reverse chain of a denoiser for other data, so that no two sides are equal by chance. Expectations over
q(x_{1:T} | x_0) are sums over the nodes of a Gauss-Hermite rule, exact for the logarithms of Gaussians.
"""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from support.analytic import pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.gaussian import normal_kl_nats, q_posterior
from ddpm_jax.diffusion.likelihood import prior_term_nats, term_nats
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import from_betas

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

BETA = np.array([0.15, 0.4, 0.7])
ALPHA_BAR = np.cumprod([1, *(1 - BETA)])
T, X_0 = 3, 0.8
STEPS = from_betas(BETA).transitions()  # 3 -> 2, 2 -> 1, 1 -> 0
DATA = Gaussian([0.3], [[0.25]])
NETWORK = Gaussian([-0.2], [[0.6]]).denoiser  # the best one for other data
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(4)
GRID = np.linspace(-9, 9, 801)


def log_normal(x, mean, var):
    return norm.logpdf(x, mean, np.sqrt(var))


@functools.cache
def model(t):
    """Slope, offset and variance of p(x_{t-1} | x_t), whose mean is a straight line in x_t."""
    step = pick(STEPS, T - t)
    x = jnp.array([[0.0], [1.0]])
    mean, log_var = p_mean_log_var(NETWORK(x, step.now), x, step, Variance.LARGE)
    offset, at_one = np.asarray(mean)[:, 0]
    return at_one - offset, offset, float(np.exp(log_var).ravel()[0])


def log_p(x, t):
    """`log p(x_{t-1} | x_t)` along chains x `[T + 1, N]`."""
    slope, offset, var = model(t)
    return log_normal(x[t - 1], slope * x[t] + offset, var)


def log_q(x, t):
    """`log q(x_t | x_{t-1})` along chains."""
    return log_normal(x[t], np.sqrt(1 - BETA[t - 1]) * x[t - 1], BETA[t - 1])


def log_q_0(x, t):
    """`log q(x_t | x_0)` along chains."""
    return log_normal(x[t], np.sqrt(ALPHA_BAR[t]) * x[0], 1 - ALPHA_BAR[t])


def log_posterior(x, t):
    """`log q(x_{t-1} | x_t, x_0)` along chains."""
    mean, log_var = q_posterior(x[0][:, None], x[t][:, None], pick(STEPS, T - t))
    return log_normal(x[t - 1], np.asarray(mean)[:, 0], float(np.exp(log_var).ravel()[0]))


def log_marginal(x_0, *, steps=T):
    """`log p(x_0)`: the chain is linear, so its mean and variance are followed from x_T ~ N(0, 1) downwards."""
    mean, var = 0.0, 1.0
    for t in range(steps, 0, -1):
        slope, offset, added = model(t)
        mean, var = slope * mean + offset, slope**2 * var + added
    return log_normal(x_0, mean, var)


def log_joint(x):
    """`log p(x_{0:T})` along chains."""
    return log_normal(x[T], 0, 1) + sum(log_p(x, t) for t in range(1, T + 1))


def chains(x_0=X_0, nodes=4):
    """Chains x_{0:T} `[T + 1, N]` that start at x_0, and their weights `[N]`, whose sum is 1."""
    points, shares = np.polynomial.hermite_e.hermegauss(nodes)
    z = np.array(list(itertools.product(points, repeat=T))).T
    weights = np.prod(list(itertools.product(shares / shares.sum(), repeat=T)), axis=1)
    x = [np.full(z.shape[1], x_0)]
    for t in range(1, T + 1):
        x.append(np.sqrt(1 - BETA[t - 1]) * x[-1] + np.sqrt(BETA[t - 1]) * z[t - 1])
    return np.array(x), weights


def expected(value, x_0=X_0):
    """`E_q[value(x_{0:T}) | x_0]`."""
    x, weights = chains(x_0)
    return weights @ value(x)


def divergence(x_0=X_0):
    """`KL(q(x_{1:T} | x_0), p(x_{1:T} | x_0))`: of two Gaussians of T numbers, from their precisions.

    A chain's log density is quadratic, so differences of it at unit vectors are its precision and its linear part.
    """
    forward = lambda x: sum(log_q(x, t) for t in range(1, T + 1))
    (mean_1, cov_1), (mean_2, cov_2) = (moments(f, x_0) for f in (forward, log_joint))
    precision, gap = np.linalg.inv(cov_2), mean_1 - mean_2
    log_dets = np.linalg.slogdet(cov_2)[1] - np.linalg.slogdet(cov_1)[1]
    return 0.5 * (log_dets + np.trace(precision @ cov_1) + gap @ precision @ gap - T)


def moments(log_density, x_0):
    """Mean and covariance of x_{1:T} given x_0 under a Gaussian whose log density is given up to a constant."""
    at = lambda v: log_density(np.concatenate([[x_0], v])[:, None])[0]
    unit, zero = np.eye(T), np.zeros(T)
    linear = np.array([(at(e) - at(-e)) / 2 for e in unit])
    second = [[at(a + b) - at(a) - at(b) + at(zero) for b in unit] for a in unit]
    cov = np.linalg.inv(-np.array(second))
    return cov @ linear, cov


def bound(x_0=X_0):
    """The bound by the project: L_T, the terms L_{t-1} averaged over x_t, and L_0 with a density as its decoder."""
    first = float(prior_term_nats(jnp.array([[x_0]]), STEPS.now._replace(**last_level()))[0])
    x, weights = chains(x_0)
    between = 0.0
    for t in range(2, T + 1):
        step, x_t = pick(STEPS, T - t), jnp.asarray(x[t][:, None])
        clean = jnp.full_like(x_t, x_0)
        nats = term_nats(NETWORK(x_t, step.now), clean, x_t, transition=step, variance=Variance.LARGE)
        between += weights @ np.asarray(nats)
    return first + between - expected(lambda x: log_p(x, 1), x_0)


def last_level():
    """The fields of the level at T."""
    return {name: getattr(STEPS.now, name)[0] for name in ("t", "signal", "sigma")}


def test_10_1_the_models_density_is_an_integral_over_its_chains():
    """On grids of x_1, x_2 and x_3, one after the other."""
    density = norm.pdf(GRID)
    for t in range(T, 0, -1):
        slope, offset, var = model(t)
        places = GRID if t > 1 else np.array([X_0])
        kernel = norm.pdf(places[:, None], slope * GRID + offset, np.sqrt(var))
        density = np.trapezoid(kernel * density, GRID, axis=1)
    np.testing.assert_allclose(np.log(density[0]), log_marginal(X_0), rtol=1e-9)


def test_10_2_the_expected_ratio_is_one_so_that_the_divergence_is_not_negative():
    """The ratio by a rule that is exact enough for an exponential, the sign for many x_0."""
    log_ratio = lambda x: log_joint(x) - log_marginal(X_0) - sum(log_q(x, t) for t in (1, 2, 3))
    np.testing.assert_allclose(expected(log_ratio), -divergence(), rtol=1e-9)
    x, weights = chains(nodes=24)
    ratio = np.exp(log_ratio(x))
    np.testing.assert_allclose(weights @ ratio, 1, rtol=1e-6)
    assert min(divergence(x_0) for x_0 in np.linspace(-3, 3, 25)) > 0
    assert np.all(np.log(ratio) <= ratio - 1)


def test_10_3_adding_the_divergence_makes_an_upper_bound():
    for x_0 in (-2.0, 0.1, 0.8):
        assert -log_marginal(x_0) < -log_marginal(x_0) + divergence(x_0)
        np.testing.assert_allclose(bound(x_0) + log_marginal(x_0), divergence(x_0), rtol=1e-8)


def test_10_4_the_density_of_x_0_cancels():
    ratio = expected(lambda x: sum(log_q(x, t) for t in range(1, T + 1)) - log_joint(x))
    np.testing.assert_allclose(ratio, -log_marginal(X_0) + divergence(), rtol=1e-9)


def test_10_5_both_chains_are_products_of_steps():
    """The densities of the chains as Gaussians of T numbers, from covariances, against the products."""
    x, _ = chains()
    cov = np.array(
        [
            [np.sqrt(ALPHA_BAR[max(i, j)] / ALPHA_BAR[min(i, j)]) * (1 - ALPHA_BAR[min(i, j)]) for i in (1, 2, 3)]
            for j in (1, 2, 3)
        ]
    )
    gap = x[1:] - np.sqrt(ALPHA_BAR[1:])[:, None] * X_0
    whole = -0.5 * (gap * np.linalg.solve(cov, gap)).sum(0) - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
    np.testing.assert_allclose(sum(log_q(x, t) for t in (1, 2, 3)), whole, rtol=1e-9)
    mean, cov = joint(data=False)
    np.testing.assert_allclose(multivariate_normal(mean, cov).logpdf(x.T), log_joint(x), rtol=1e-9)


def test_10_6_bayes_rule_turns_each_step_around():
    x, _ = chains()
    for t in (2, 3):
        turned = log_posterior(x, t) + log_q_0(x, t) - log_q_0(x, t - 1)
        np.testing.assert_allclose(log_q(x, t), turned, rtol=1e-9)


def test_10_7_the_sum_with_the_turned_steps():
    x, _ = chains()
    before = sum(log_q(x, t) - log_p(x, t) for t in (1, 2, 3))
    turned = sum(log_posterior(x, t) - log_p(x, t) for t in (2, 3))
    rest = sum(log_q_0(x, t) - log_q_0(x, t - 1) for t in (2, 3))
    np.testing.assert_allclose(before, turned + rest + log_q_0(x, 1) - log_p(x, 1), rtol=1e-9)


def test_10_8_the_sum_telescopes():
    x, _ = chains()
    ratios = sum(log_q_0(x, t) - log_q_0(x, t - 1) for t in (2, 3))
    ends = log_normal(x[3], np.sqrt(0.85 * 0.6 * 0.3) * X_0, 1 - 0.85 * 0.6 * 0.3) - log_q(x, 1)
    np.testing.assert_allclose(ratios, ends, rtol=1e-9)


def test_10_9_three_groups_are_left():
    three = expected(
        lambda x: (
            log_q_0(x, 3)
            - log_normal(x[3], 0, 1)
            + sum(log_posterior(x, t) - log_p(x, t) for t in (2, 3))
            - log_p(x, 1)
        )
    )
    np.testing.assert_allclose(three, -log_marginal(X_0) + divergence(), rtol=1e-9)


def test_10_10_each_group_is_a_divergence_of_two_gaussians():
    """The terms of the project against expected logarithms of densities, for one x_0 and t = 2 and 3."""
    prior = expected(lambda x: log_q_0(x, 3) - log_normal(x[3], 0, 1))
    np.testing.assert_allclose(
        prior_term_nats(jnp.array([[X_0]]), STEPS.now._replace(**last_level()))[0], prior, rtol=1e-9
    )
    x, weights = chains()
    for t in (2, 3):
        step, x_t = pick(STEPS, T - t), jnp.asarray(x[t][:, None])
        nats = term_nats(NETWORK(x_t, step.now), jnp.full_like(x_t, X_0), x_t, transition=step, variance=Variance.LARGE)
        logs = expected(lambda x, t=t: log_posterior(x, t) - log_p(x, t))
        np.testing.assert_allclose(weights @ np.asarray(nats), logs, rtol=1e-9)


def over_data(value):
    """The expectation over x_0 of the data."""
    x_0 = 0.3 + 0.5 * NODES
    return (WEIGHTS / WEIGHTS.sum()) @ np.array([value(a) for a in x_0])


ENTROPY = 0.5 * np.log(2 * np.pi * np.e * 0.25)  # of the data N(0.3, 0.25)


def test_10_11_averaged_over_the_data_the_bound_is_entropy_and_divergence():
    """The divergence of the joint distributions, from the covariances of x_{0:T}."""
    (mean_1, cov_1), (mean_2, cov_2) = joint(data=True), joint(data=False)
    precision, gap = np.linalg.inv(cov_2), mean_1 - mean_2
    log_dets = np.linalg.slogdet(cov_2)[1] - np.linalg.slogdet(cov_1)[1]
    whole = 0.5 * (log_dets + np.trace(precision @ cov_1) + gap @ precision @ gap - T - 1)
    np.testing.assert_allclose(over_data(bound), ENTROPY + whole, rtol=1e-8)


def joint(*, data):
    """Mean and covariance of x_{0:T}, under q from the data upwards or under p from x_T downwards."""
    order = range(1, T + 1) if data else range(T - 1, -1, -1)
    mean, cov = np.zeros(T + 1), np.zeros((T + 1, T + 1))
    start = 0 if data else T
    mean[start], cov[start, start] = (0.3, 0.25) if data else (0, 1)
    for i in order:
        before = i - 1 if data else i + 1
        slope, offset, var = (np.sqrt(1 - BETA[i - 1]), 0, BETA[i - 1]) if data else model(i + 1)
        mean[i] = slope * mean[before] + offset
        cov[i] += slope * cov[before]
        cov[:, i] = cov[i]
        cov[i, i] = slope**2 * cov[before, before] + var
    return mean, cov


def test_10_12_the_gap_splits_into_the_datas_and_the_chains():
    """`KL(q(x_0), p(x_0))` in closed form, and the chain's averaged over the data."""
    mean, cov = joint(data=False)
    ends = float(normal_kl_nats(0.3, np.log(0.25), mean[0], np.log(cov[0, 0])))
    np.testing.assert_allclose(over_data(bound) - ENTROPY, ends + over_data(divergence), rtol=1e-8)


def test_10_13_the_gap_is_that_of_the_reverse_steps():
    """`KL(q(x_T), p(x_T))` and the expected divergences of the true reverse steps from those of the model."""
    mean, cov = joint(data=True)
    total = float(normal_kl_nats(mean[T], np.log(cov[T, T]), 0.0, 0.0))
    for t in range(1, T + 1):
        true_slope = cov[t, t - 1] / cov[t, t]
        true_var = cov[t - 1, t - 1] - true_slope * cov[t, t - 1]
        slope, offset, var = model(t)
        x_t = mean[t] + np.sqrt(cov[t, t]) * NODES
        true_mean = mean[t - 1] + true_slope * (x_t - mean[t])
        kl = normal_kl_nats(jnp.asarray(true_mean), np.log(true_var), slope * x_t + offset, np.log(var))
        total += (WEIGHTS / WEIGHTS.sum()) @ np.asarray(kl)
    np.testing.assert_allclose(over_data(bound), ENTROPY + total, rtol=1e-8)

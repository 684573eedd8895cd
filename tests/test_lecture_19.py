"""Row 19, data fit against the KL: weight decay, ridge regression as the most probable weights, and Occam's razor.

On a linear regression, where the posterior and the evidence are known; from line 4 on with correlated features.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from support.analytic import normal
from support.regression import LOG_EVIDENCE, MEAN, NOISE, PRECISION, PRIOR, Q, Y, average, log_likelihood, log_prior

from ddpm_jax.diffusion.bayes import MeanField, elbo_nats, kl_nats

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

LAMBDA = NOISE**2 / PRIOR**2
FEATURES = normal(9, 4, seed=2) @ np.triu(np.ones((4, 4)))  # correlated
RIDGE = np.linalg.solve(FEATURES.T @ FEATURES + LAMBDA * np.eye(4), FEATURES.T @ Y)
STD = np.exp(Q.log_std)
equal = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


NODES, SHARES = np.polynomial.hermite_e.hermegauss(3)
EPS = np.array(list(itertools.product(NODES, repeat=4)))  # a rule that is exact for squares and products
RULE = np.prod(list(itertools.product(SHARES / SHARES.sum(), repeat=4)), axis=1)
FOUR = MeanField(np.array([0.3, 0.4, -0.6, 0.2]), np.log([0.5, 0.2, 0.4, 0.3]))  # any q(w)


def log_fit(w):
    """`log P(D | w)` of the correlated features, by JAX."""
    return jax.scipy.stats.norm.logpdf(Y, FEATURES @ w, NOISE).sum()


def elbo(q):
    """The project's ELBO, with the exact average over q of a log likelihood that is a quadratic."""
    each = jax.vmap(lambda eps: elbo_nats(log_fit, q, eps, prior_std=PRIOR))(EPS)
    return jax.tree.map(lambda values: RULE @ values, each)


def log_posterior(w):
    """`log P(D | w) + log P(w)` of the correlated features."""
    return log_fit(w) + jax.scipy.stats.norm.logpdf(w, 0, PRIOR).sum()


def test_19_1_the_divergence_of_two_gaussians_is_an_average_of_squares():
    m, s = 0.6, 0.3
    q = norm(m, s)
    left = quad(lambda w: q.pdf(w) * (q.logpdf(w) - norm.logpdf(w, 0, PRIOR)), m - 9 * s, m + 9 * s)[0]
    squares = lambda w: np.log(PRIOR / s) - (w - m) ** 2 / (2 * s**2) + w**2 / (2 * PRIOR**2)
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    equal(left, weights @ squares(m + s * points) / np.sqrt(2 * np.pi), rtol=1e-8)


def test_19_2_the_averages_of_the_squares_are_the_moments_of_q():
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    m, s = Q.mean, STD
    w = m + s * points[:, None]
    inner = np.log(PRIOR / s) - (w - m) ** 2 / (2 * s**2) + w**2 / (2 * PRIOR**2)
    left = weights @ inner / np.sqrt(2 * np.pi)
    for i in range(2):
        one = kl_nats(MeanField(m[i : i + 1], Q.log_std[i : i + 1]), prior_std=PRIOR)
        equal(left[i], one.mean + one.variance)


def test_19_3_the_divergence_of_all_weights_is_weight_decay_and_the_cost_of_precision():
    """The left side by the formula for vectors, with trace and determinant."""
    covariance, inverse = np.diag(STD**2), np.eye(2) / PRIOR**2
    trace, log_det = np.trace(inverse @ covariance), np.linalg.slogdet(inverse @ covariance)[1]
    left = (trace + Q.mean @ inverse @ Q.mean - 2 - log_det) / 2
    parts = kl_nats(Q, prior_std=PRIOR)
    equal(left, parts.mean + parts.variance)
    equal(parts.mean, np.linalg.norm(Q.mean) ** 2 / (2 * PRIOR**2))


def test_19_4_the_data_fit_is_the_likelihood_of_the_mean_less_a_cost_of_width():
    """The left side also by the normal distribution of scipy; the mixed products of the features are not 0."""
    std = np.exp(FOUR.log_std)
    right = log_fit(FOUR.mean) - (std**2 * (FEATURES**2).sum(axis=0)).sum() / (2 * NOISE**2)
    equal(RULE @ norm.logpdf(Y, (FOUR.mean + std * EPS) @ FEATURES.T, NOISE).sum(axis=1), right)
    equal(elbo(FOUR).data_fit, right)


def test_19_5_the_gradient_of_the_elbo_is_maximum_likelihood_with_weight_decay():
    left = jax.grad(lambda q: elbo(q).total)(FOUR).mean
    equal(left, FEATURES.T @ (Y - FEATURES @ FOUR.mean) / NOISE**2 - FOUR.mean / PRIOR**2)


def test_19_6_the_log_posterior_is_a_squared_error_with_lambda():
    """Up to what does not depend on w: the differences of two weights are compared."""
    one, other = normal(2, 4, seed=3)
    loss = lambda w: np.sum((Y - FEATURES @ w) ** 2) + LAMBDA * np.sum(w**2)
    equal(log_posterior(one) - log_posterior(other), -(loss(one) - loss(other)) / (2 * NOISE**2))


def test_19_7_the_most_probable_weights_solve_the_normal_equations():
    """The left side by one step of Newton's method from zero, which is exact for a quadratic."""
    hessian, gradient = (jax.jit(of(log_posterior))(jnp.zeros(4)) for of in (jax.hessian, jax.grad))
    newton = -np.linalg.solve(hessian, gradient)
    equal(newton, RIDGE)
    stacked = np.vstack([FEATURES, np.sqrt(LAMBDA) * np.eye(4)])
    equal(np.linalg.lstsq(stacked, np.append(Y, np.zeros(4)), rcond=None)[0], RIDGE)


def test_19_8_the_mean_of_the_exact_posterior_is_the_ridge_solution():
    """The left side by the conditional mean of the joint Gaussian of weights and data."""
    covariance = PRIOR**2 * FEATURES @ FEATURES.T + NOISE**2 * np.eye(9)
    equal(PRIOR**2 * FEATURES.T @ np.linalg.solve(covariance, Y), RIDGE)


def test_19_9_ridge_shrinks_least_squares_direction_by_direction():
    least = np.linalg.lstsq(FEATURES, Y, rcond=None)[0]
    _, d, directions = np.linalg.svd(FEATURES)
    equal(directions @ RIDGE, d**2 / (d**2 + LAMBDA) * (directions @ least))


def test_19_10_the_variance_over_data_sets_stays_below_that_of_least_squares():
    """Of weights that are linear in the data, `w = A y`, so that their covariance is `noise**2 A A^T`."""
    _, d, directions = np.linalg.svd(FEATURES)
    ridge = np.linalg.solve(FEATURES.T @ FEATURES + LAMBDA * np.eye(4), FEATURES.T)
    variance = NOISE**2 * np.sum((directions @ ridge) ** 2, axis=1)
    equal(variance, NOISE**2 * d**2 / (d**2 + LAMBDA) ** 2)
    least = NOISE**2 * np.sum((directions @ np.linalg.pinv(FEATURES)) ** 2, axis=1)
    equal(least, NOISE**2 / d**2)
    assert np.all(variance < least)
    assert np.all(variance <= PRIOR**2 / 4 + 1e-12)


def test_19_11_the_log_evidence_is_the_best_fit_and_the_occam_factor():
    """The evidence by the distribution of the data; and with orthogonal features it is the ELBO of a mean field."""
    precision = FEATURES.T @ FEATURES / NOISE**2 + np.eye(4) / PRIOR**2
    mean = np.linalg.solve(precision, FEATURES.T @ Y / NOISE**2)
    prior = norm.logpdf(mean, 0, PRIOR).sum()
    factor = prior + 2 * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1] / 2
    evidence = multivariate_normal(cov=NOISE**2 * np.eye(9) + PRIOR**2 * FEATURES @ FEATURES.T).logpdf(Y)
    equal(evidence, log_fit(mean) + factor)
    equal(factor, prior - multivariate_normal(mean, np.linalg.inv(precision)).logpdf(mean))
    factor = log_prior(MEAN) + np.log(2 * np.pi) - np.linalg.slogdet(PRECISION)[1] / 2
    equal(LOG_EVIDENCE, log_likelihood(MEAN) + factor)
    kl = kl_nats(MeanField(MEAN, -0.5 * np.log(np.diag(PRECISION))), prior_std=PRIOR).total
    equal(LOG_EVIDENCE, average(log_likelihood, MEAN, 1 / np.sqrt(np.diag(PRECISION))) - kl)

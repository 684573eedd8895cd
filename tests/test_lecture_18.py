"""Row 18, the ELBO over weights: `log P(D) = KL(q(w), P(w | D)) + ELBO`, and the two directions of the divergence.

Lines 1 to 8 on a linear regression, where the evidence and the posterior are known; lines 9 to 11 on a density with two
modes, by quadrature.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from support.regression import (
    LOG_EVIDENCE,
    MEAN,
    NOISE,
    PRECISION,
    PRIOR,
    STD,
    Q,
    X,
    Y,
    average,
    integral,
    log_likelihood,
    log_prior,
    log_q,
)

from ddpm_jax.diffusion.analytic import GaussianMixture
from ddpm_jax.diffusion.bayes import MeanField, elbo_nats, kl_nats
from ddpm_jax.diffusion.gaussian import normal_kl_nats

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

OTHER = MeanField(np.array([-0.2, 0.9]), np.log([0.3, 0.6]))
TWO_MODES = GaussianMixture([0.6, 0.4], [[-1.5], [2.0]], [[[0.3]], [[0.5]]])
LINE = np.linspace(-12, 12, 961)
equal = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


def log_posterior(w):
    """The exact `log P(w | D)`, a Gaussian, from its mean and its precision."""
    return multivariate_normal(MEAN, np.linalg.inv(PRECISION)).logpdf(w)


def kl_to_posterior(q):
    """`KL(q(w), P(w | D))` by the project's formula for two Gaussians."""
    return jnp.sum(normal_kl_nats(q.mean, 2 * q.log_std, MEAN, 2 * np.log(STD)))


def elbo(q):
    """The project's ELBO, with the exact average over q: the log likelihood is a quadratic with orthogonal features."""
    fit = lambda w: jnp.sum(jax.scipy.stats.norm.logpdf(Y, X @ w, NOISE))
    sides = [elbo_nats(fit, q, side * jnp.ones(2), prior_std=PRIOR) for side in (1, -1)]
    return jax.tree.map(lambda a, b: (a + b) / 2, *sides)


def test_18_1_bayes_rule_gives_the_posterior_of_the_weights():
    joint = lambda w: np.exp(log_likelihood(w) + log_prior(w))
    equal(log_posterior(MEAN + STD), np.log(joint(MEAN + STD) / integral(joint)))
    equal(np.log(integral(joint)), LOG_EVIDENCE)


def test_18_2_the_prediction_averages_over_the_posterior():
    """The left side is `P(y, D) / P(D)`, without any weights."""
    x, y = np.array([0.5, -1.2]), 0.3
    inputs = np.vstack([X, x])
    covariance = NOISE**2 * np.eye(10) + PRIOR**2 * inputs @ inputs.T
    left = multivariate_normal(cov=covariance).logpdf(np.append(Y, y)) - LOG_EVIDENCE
    equal(np.exp(left), integral(lambda w: norm.pdf(y, w @ x, NOISE) * np.exp(log_posterior(w))))


def test_18_3_the_divergence_from_the_posterior_in_terms_of_the_joint():
    equal(kl_to_posterior(Q), average(lambda w: log_q(w) - log_likelihood(w) - log_prior(w) + LOG_EVIDENCE))


def test_18_4_the_evidence_does_not_depend_on_the_weights():
    """Its average over q is itself: Bayes' rule gives the same number at every w."""
    equal(average(lambda w: log_likelihood(w) + log_prior(w) - log_posterior(w)), LOG_EVIDENCE)


def test_18_5_the_average_of_log_q_minus_log_prior_is_a_divergence():
    equal(average(lambda w: log_q(w) - log_prior(w)), kl_nats(Q, prior_std=PRIOR).total)


@pytest.mark.parametrize("q", [Q, OTHER], ids=["one", "another"])
def test_18_6_the_log_evidence_is_the_divergence_plus_the_elbo(q):
    equal(LOG_EVIDENCE, kl_to_posterior(q) + elbo(q).total)
    equal(elbo(q).data_fit, average(log_likelihood, q.mean, np.exp(q.log_std)))


def test_18_7_a_divergence_is_not_negative_by_jensens_inequality():
    log_ratio = lambda w: log_posterior(w) - log_q(w, OTHER)
    equal(-kl_to_posterior(OTHER), average(log_ratio, OTHER.mean, np.exp(OTHER.log_std)))
    equal(integral(lambda w: np.exp(log_q(w, OTHER) + log_ratio(w))), 1)
    assert kl_to_posterior(OTHER) > 1
    equal(kl_to_posterior(MeanField(MEAN, np.log(STD))), 0)
    equal(elbo(MeanField(MEAN, np.log(STD))).total, LOG_EVIDENCE)


def test_18_8_what_the_elbo_gains_the_divergence_loses():
    equal(elbo(Q).total - elbo(OTHER).total, kl_to_posterior(OTHER) - kl_to_posterior(Q))
    slope, fall = jax.grad(lambda q: elbo(q).total)(Q), jax.grad(kl_to_posterior)(Q)
    for ours, theirs in zip(slope, fall, strict=True):
        equal(ours, -theirs)


def log_p(w):
    """The log of the density with two modes, at points `[N]`."""
    return TWO_MODES.log_prob(w[:, None])


def covering(q):
    """`KL(p, q)` by quadrature, for `q = (m, log s)`."""
    gap = log_p(LINE) - jax.scipy.stats.norm.logpdf(LINE, q[0], jnp.exp(q[1]))
    return jnp.trapezoid(jnp.exp(log_p(LINE)) * gap, LINE)


def seeking(q):
    """`KL(q, p)` by quadrature, for `q = (m, log s)`."""
    log_q = jax.scipy.stats.norm.logpdf(LINE, q[0], jnp.exp(q[1]))
    return jnp.trapezoid(jnp.exp(log_q) * (log_q - log_p(LINE)), LINE)


def test_18_9_the_cross_entropy_depends_on_two_moments_of_p():
    m, log_s = 0.7, 0.2
    p = jnp.exp(log_p(LINE))
    left = -jnp.trapezoid(p * jax.scipy.stats.norm.logpdf(LINE, m, np.exp(log_s)), LINE)
    square = TWO_MODES.covariance.item() + (TWO_MODES.mean.item() - m) ** 2
    equal(left, log_s + np.log(2 * np.pi) / 2 + square / (2 * np.exp(2 * log_s)))


def test_18_10_the_divergence_of_p_from_q_is_least_at_the_mean_and_variance_of_p():
    found = minimize(jax.jit(covering), [0.5, 0.3], jac=jax.jit(jax.grad(covering)), tol=1e-12).x
    np.testing.assert_allclose(found[0], TWO_MODES.mean.item(), atol=1e-6)
    np.testing.assert_allclose(np.exp(2 * found[1]), TWO_MODES.covariance.item(), rtol=1e-6)


def test_18_11_the_divergence_of_q_from_p_pulls_by_the_average_score_under_q():
    """The score by hand; in the mean and in the logarithm of the standard deviation."""
    m, log_s = -0.4, -0.1
    means, variances, weights = np.array([-1.5, 2.0]), np.array([0.3, 0.5]), np.array([0.6, 0.4])
    each = weights * norm.pdf(LINE[:, None], means, np.sqrt(variances))
    score = (each * (means - LINE[:, None]) / variances).sum(axis=1) / each.sum(axis=1)
    q = norm.pdf(LINE, m, np.exp(log_s))
    slope = jax.grad(seeking)(jnp.array([m, log_s]))
    equal(slope[0], -np.trapezoid(q * score, LINE))
    equal(slope[1], -1 - np.trapezoid(q * score * (LINE - m), LINE))

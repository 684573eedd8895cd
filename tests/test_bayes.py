"""Weights with a posterior, held to Bayesian linear regression, where the evidence and the posterior are known.

With orthogonal columns the exact posterior is a product of Gaussians, so that the mean-field family contains it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from support.analytic import normal

from ddpm_jax.diffusion.bayes import (
    MeanField,
    elbo_nats,
    initial_posterior,
    kl_nats,
    predictive_log_prob,
    sample_weights,
    standard_noise,
    uncertainty,
    weights_at,
)
from ddpm_jax.diffusion.gaussian import normal_kl_nats

pytestmark = pytest.mark.usefixtures("quick_compilation")

PRIOR_STD, NOISE_STD = 0.8, 0.3


class Regression(NamedTuple):
    """`y = inputs @ w + noise` of 12 examples and four weights, which are kept as a tree of two."""

    inputs: np.ndarray
    y: np.ndarray

    def mean_of_y(self, weights):
        return self.inputs @ jnp.concatenate([weights["slope"].ravel(), weights["offset"]])

    def log_likelihood(self, weights):
        return jnp.sum(jax.scipy.stats.norm.logpdf(self.y, self.mean_of_y(weights), NOISE_STD))

    def log_evidence(self):
        covariance = NOISE_STD**2 * np.eye(len(self.y)) + PRIOR_STD**2 * self.inputs @ self.inputs.T
        return multivariate_normal(cov=covariance).logpdf(self.y)

    def precision(self):
        return self.inputs.T @ self.inputs / NOISE_STD**2 + np.eye(4) / PRIOR_STD**2

    def posterior(self):
        """The exact mean and the variances that fit the exact precision best; exact for orthogonal columns."""
        mean = np.linalg.solve(self.precision(), self.inputs.T @ self.y / NOISE_STD**2)
        return MeanField(tree(mean), tree(-0.5 * np.log(np.diag(self.precision()))))

    def elbo(self, posterior):
        """The exact ELBO: the log-likelihood is quadratic, and the rule is exact up to third powers."""
        elbo = partial(elbo_nats, self.log_likelihood, posterior, prior_std=PRIOR_STD)
        return jnp.mean(jax.vmap(lambda eps: elbo(eps).total)(cubature(posterior)))


def tree(w):
    """Four weights as a parameter tree."""
    return {"slope": jnp.asarray(w[:3]).reshape(3, 1), "offset": jnp.asarray(w[3:])}


def cubature(posterior):
    """Equally weighted points `+-sqrt(D) e_i` for the standard normal: a tree with leaves `[2 D, ...]`."""
    flat, unravel = ravel_pytree(posterior.log_std)
    points = np.sqrt(flat.size) * np.eye(flat.size)
    return jax.vmap(unravel)(jnp.asarray(np.concatenate([points, -points])))


def regression(*, orthogonal):
    inputs = normal(12, 4)
    if orthogonal:
        inputs = np.linalg.qr(inputs)[0] * [0.3, 0.5, 0.7, 1.0]
    return Regression(inputs, inputs @ normal(4, seed=1) + NOISE_STD * normal(12, seed=2))


def nudged(posterior, size, seed=3):
    """A posterior with its means and log deviations moved by so much."""
    flat, unravel = ravel_pytree(posterior)
    return unravel(flat + size * normal(flat.size, seed=seed))


def kl_between(q, p):
    """KL of one mean-field posterior from another."""
    kl = lambda m, s, n, r: jnp.sum(normal_kl_nats(m, 2 * s, n, 2 * r))
    return sum(jax.tree.leaves(jax.tree.map(kl, q.mean, q.log_std, p.mean, p.log_std)))


def test_elbo_is_the_log_evidence_at_the_exact_posterior(x64):
    data = regression(orthogonal=True)
    np.testing.assert_allclose(data.elbo(data.posterior()), data.log_evidence(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0])
def test_elbo_falls_short_by_the_divergence_from_the_exact_posterior(x64, size):
    """`log P(D) = ELBO + KL(q(w), P(w | D))`."""
    data = regression(orthogonal=True)
    q = nudged(data.posterior(), size)
    gap = data.log_evidence() - data.elbo(q)
    assert gap > size**2 / 10
    np.testing.assert_allclose(gap, kl_between(q, data.posterior()), rtol=0, atol=1e-9)


def test_elbo_of_correlated_weights_stays_below_the_log_evidence(x64):
    """By `(sum log P_ii - log det P) / 2` for the exact precision P, at the best mean-field posterior."""
    data = regression(orthogonal=False)
    gap = data.log_evidence() - data.elbo(data.posterior())
    precision = data.precision()
    expected = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert expected > 0.1
    np.testing.assert_allclose(gap, expected, rtol=0, atol=1e-9)
    for seed in range(10):
        assert data.log_evidence() - data.elbo(nudged(data.posterior(), 0.01, seed)) > expected


@pytest.mark.parametrize("orthogonal", [True, False], ids=["orthogonal", "correlated"])
def test_gradient_ascent_of_the_elbo_finds_the_best_posterior(x64, orthogonal):
    data = regression(orthogonal=orthogonal)
    step = 1.0 / np.linalg.eigvalsh(data.precision())[-1]
    gradient = jax.grad(data.elbo)
    climb = lambda _, q: jax.tree.map(lambda leaf, slope: leaf + step * slope, q, gradient(q))
    start = initial_posterior(tree(np.zeros(4)), std=0.1)
    found = jax.jit(lambda q: jax.lax.fori_loop(0, 2000, climb, q))(start)
    for ours, exact in zip(jax.tree.leaves(found), jax.tree.leaves(data.posterior()), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6)


def test_monte_carlo_gradient_of_the_elbo_is_right_on_average(x64):
    """Against `X^T (y - X m) / noise**2 - m / prior**2` and `1 - std**2 P_ii`, within four standard errors."""
    data, num = regression(orthogonal=False), 4000
    q = nudged(data.posterior(), 0.1)

    def elbo(q, key):
        return elbo_nats(data.log_likelihood, q, standard_noise(q, key), prior_std=PRIOR_STD).total

    draws = jax.jit(jax.vmap(jax.grad(elbo), (None, 0)))(q, jax.random.split(jax.random.key(0), num))
    mean = ravel_pytree((q.mean["slope"], q.mean["offset"]))[0]
    std = np.exp(ravel_pytree((q.log_std["slope"], q.log_std["offset"]))[0])
    exact = MeanField(
        tree(data.inputs.T @ (data.y - data.inputs @ mean) / NOISE_STD**2 - mean / PRIOR_STD**2),
        tree(1 - std**2 * np.diag(data.precision())),
    )
    for ours, expected in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        error = ours.std(axis=0) / np.sqrt(num)
        assert np.all(np.abs(ours.mean(axis=0) - expected) < 4 * error)
        assert np.all(error < 0.02 * np.abs(ravel_pytree(exact)[0]).max())


def test_kl_is_the_integral_over_the_weights(x64):
    q = nudged(initial_posterior(tree(np.zeros(4)), std=0.5), 0.7)
    total, prior = 0.0, norm(0, PRIOR_STD)
    for mean, log_std in zip(ravel_pytree(q.mean)[0], ravel_pytree(q.log_std)[0], strict=True):
        p = norm(mean, np.exp(log_std))
        total += quad(lambda w, p=p: p.pdf(w) * (p.logpdf(w) - prior.logpdf(w)), *p.interval(1 - 1e-15))[0]
    np.testing.assert_allclose(kl_nats(q, prior_std=PRIOR_STD).total, total, rtol=1e-9)


def test_kl_is_weight_decay_and_the_cost_of_precision(x64):
    q = nudged(initial_posterior(tree(np.zeros(4)), std=0.5), 0.7)
    gradient = jax.grad(lambda q: kl_nats(q, prior_std=PRIOR_STD).mean)(q)
    for slope, w in zip(jax.tree.leaves(gradient.mean), jax.tree.leaves(q.mean), strict=True):
        np.testing.assert_allclose(slope, w / PRIOR_STD**2, rtol=1e-14)
    assert not np.any(ravel_pytree(gradient.log_std)[0])
    assert not np.any(ravel_pytree(jax.grad(lambda q: kl_nats(q, prior_std=PRIOR_STD).variance)(q).mean)[0])
    at_prior = initial_posterior(q.mean, std=PRIOR_STD)
    np.testing.assert_allclose(kl_nats(at_prior, prior_std=PRIOR_STD).variance, 0, atol=1e-15)
    for std in (PRIOR_STD / 2, PRIOR_STD * 2):
        ratio = std / PRIOR_STD
        variance = kl_nats(initial_posterior(q.mean, std=std), prior_std=PRIOR_STD).variance
        np.testing.assert_allclose(variance, 4 * ((ratio**2 - 1) / 2 - np.log(ratio)), rtol=1e-12)


def test_a_narrow_posterior_learns_like_a_point_estimate_with_weight_decay(x64):
    """Of a logistic regression, which is not quadratic: the gradients differ by the order of the variance."""
    inputs, sign, means = normal(12, 4), np.sign(normal(12, seed=1)), tree(normal(4, seed=2))

    def log_likelihood(weights):
        return jnp.sum(jax.nn.log_sigmoid(sign * Regression(inputs, sign).mean_of_y(weights)))

    def elbo(mean, std):
        q = MeanField(mean, initial_posterior(mean, std=std).log_std)
        one = partial(elbo_nats, log_likelihood, q, prior_std=PRIOR_STD)
        return jnp.mean(jax.vmap(lambda eps: one(eps).total)(cubature(q)))

    decayed = jax.tree.map(lambda slope, w: slope - w / PRIOR_STD**2, jax.grad(log_likelihood)(means), means)
    gap = lambda std: np.abs(ravel_pytree(jax.grad(elbo)(means, std))[0] - ravel_pytree(decayed)[0]).max()
    assert gap(0.1) > 1e-3
    assert gap(0.1) / gap(0.05) == pytest.approx(4, rel=0.05)
    assert gap(1e-5) < 1e-9


def test_a_posterior_over_some_weights_leaves_the_others_points(x64):
    """The ELBO is then the log evidence of what the point estimates leave unexplained."""
    data = regression(orthogonal=True)
    exact = data.posterior()
    q = exact._replace(log_std={**exact.log_std, "offset": None})
    rest = Regression(data.inputs * [1, 1, 1, 0], data.y - data.inputs[:, 3] * exact.mean["offset"])
    np.testing.assert_allclose(data.elbo(q), rest.log_evidence(), rtol=0, atol=1e-9)
    weights = sample_weights(q, jax.random.key(0))
    np.testing.assert_array_equal(weights["offset"], exact.mean["offset"])
    assert np.all(weights["slope"] != exact.mean["slope"])
    slope = jax.grad(data.elbo)(q).mean["offset"]
    np.testing.assert_allclose(slope, exact.mean["offset"] / PRIOR_STD**2, rtol=1e-9)


def test_the_initial_posterior_is_around_the_parameters_where_asked():
    params = {"encoder": {"kernel": jnp.ones(3)}, "pool": {"out": {"kernel": jnp.ones(2), "bias": jnp.zeros(2)}}}
    q = initial_posterior(params, std=0.5, where=lambda name: name in ("pool/out/kernel", "pool/out/bias"))
    assert q.mean is params
    assert q.log_std["encoder"]["kernel"] is None
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(np.exp(q.log_std["pool"]["out"][name]), [0.5, 0.5], rtol=1e-6)


def test_weights_are_mean_plus_deviation_times_noise(x64):
    q = nudged(initial_posterior(tree(np.zeros(4)), std=0.5), 0.7)
    eps = tree(normal(4, seed=5))
    weights = weights_at(q, eps)
    for name in q.mean:
        np.testing.assert_allclose(weights[name], q.mean[name] + np.exp(q.log_std[name]) * eps[name], rtol=1e-14)


def test_sampled_weights_are_of_the_posterior():
    q = initial_posterior({"a": jnp.full(20_000, 2.0), "b": jnp.full(20_000, -1.0)}, std=0.5)
    weights = sample_weights(q, jax.random.key(0))
    for name in q.mean:
        assert weights[name].dtype == jnp.float32
        np.testing.assert_allclose(weights[name].mean(), q.mean[name][0], atol=4 * 0.5 / np.sqrt(20_000))
        np.testing.assert_allclose(weights[name].std(), 0.5, rtol=0.02)
    assert abs(np.corrcoef(weights["a"], weights["b"])[0, 1]) < 4 / np.sqrt(20_000)
    assert not np.array_equal(weights["a"], sample_weights(q, jax.random.key(1))["a"])


def log_probs(*shape, seed=0):
    return jax.nn.log_softmax(jnp.asarray(3 * normal(*shape, seed=seed)), axis=-1)


def test_the_prediction_is_the_mean_probability(x64):
    logs = log_probs(5, 7, 4)
    average = jnp.exp(predictive_log_prob(logs))
    np.testing.assert_allclose(average, np.exp(logs).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(average.sum(axis=-1), 1, rtol=1e-12)


def test_the_prediction_of_very_unlikely_classes_is_finite():
    """Where a probability is too small for float32, its logarithm is not."""
    logs = jnp.array([[[0.0, -300.0]], [[0.0, -301.0]]])
    np.testing.assert_allclose(predictive_log_prob(logs)[0, 1], -300 + np.log((1 + np.exp(-1)) / 2), rtol=1e-6)


def test_uncertainty_by_hand(x64):
    """Two sure but opposite predictions, two unsure ones that agree, and two of nine to one that disagree."""
    certain, half, nine = np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([0.9, 0.1])
    first, second = np.stack([certain, half, nine]), np.stack([certain[::-1], half, nine[::-1]])
    with np.errstate(divide="ignore"):
        ours = uncertainty(jnp.asarray(np.log(np.stack([first, second]))))
    np.testing.assert_allclose(ours.predictive_entropy, [np.log(2)] * 3, rtol=1e-14)
    np.testing.assert_allclose(ours.expected_entropy, [0, np.log(2), 0.3250829733914482], rtol=1e-14)
    np.testing.assert_allclose(ours.mutual_information, [np.log(2), 0, 0.3680642071684971], atol=1e-14)


def test_mutual_information_is_the_mean_divergence_from_the_prediction(x64):
    """`mean_s KL(p_s, mean p)`: never negative, nothing where all samples agree, at most the log of their number."""
    logs = log_probs(3, 50, 4)
    split, average = uncertainty(logs), predictive_log_prob(logs)
    divergence = jnp.mean(jnp.sum(jnp.exp(logs) * (logs - average), axis=-1), axis=0)
    np.testing.assert_allclose(split.mutual_information, divergence, rtol=1e-9)
    np.testing.assert_allclose(split.predictive_entropy, split.expected_entropy + split.mutual_information, rtol=1e-12)
    assert np.all(split.mutual_information > 0)
    assert np.all(split.mutual_information < np.log(3))
    alike = uncertainty(jnp.broadcast_to(logs[:1], logs.shape))
    np.testing.assert_allclose(alike.mutual_information, 0, atol=1e-14)
    np.testing.assert_allclose(alike.predictive_entropy, -jnp.sum(jnp.exp(logs[0]) * logs[0], axis=-1), rtol=1e-12)

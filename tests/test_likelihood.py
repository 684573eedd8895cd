"""The bound against the papers' formulas and the entropy of 8-bit data."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from support.analytic import each, keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import discretized_log_prob_nats, normal_kl_nats
from ddpm_jax.diffusion.likelihood import (
    bits_per_dim,
    bound_term,
    bound_terms,
    density_to_bits_per_dim,
    prior_term_nats,
)
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.schedules import cosine, linear

LEVELS = np.arange(256) / 127.5 - 1
LOWER = np.where(np.arange(256) == 0, -np.inf, LEVELS - 1 / 255)
UPPER = np.where(np.arange(256) == 255, np.inf, LEVELS + 1 / 255)
VARIANCES = {variance.value: variance for variance in Variance}
MSE = 0.03


def test_kl_is_the_integral(x64):
    for mean_1, var_1, mean_2, var_2 in [(0.0, 1.0, 0.0, 1.0), (0.3, 0.5, -0.4, 2.0), (-2.0, 1.5, 1.0, 0.3)]:
        p, q = norm(mean_1, np.sqrt(var_1)), norm(mean_2, np.sqrt(var_2))
        width = 12 * np.sqrt(var_1)
        integral, _ = quad(lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), mean_1 - width, mean_1 + width)
        ours = normal_kl_nats(jnp.asarray(mean_1), np.log(var_1), mean_2, np.log(var_2))
        np.testing.assert_allclose(ours, integral, rtol=1e-7, atol=1e-12)


MEANS = np.array([-40.0, -1.0, -0.996, -0.3, 0.0, 1e-3, 0.71, 1.0, 1.2, 40.0])
LOG_VARS = np.log(np.array([1e-10, 1e-6, 1e-4, 1e-2, 1.0, 30.0]))


@pytest.mark.parametrize("x64_on", [False, True], ids=["float32", "float64"])
def test_the_decoder_is_a_distribution_over_the_256_values(x64_on):
    """Probabilities sum to one, up to their floor and the rounding of the edges, however narrow or far the Gaussian."""
    with jax.enable_x64(x64_on):
        dtype = np.float64 if x64_on else np.float32
        mean, log_var = (a[..., None].astype(dtype) for a in np.meshgrid(MEANS, LOG_VARS))
        log_prob = discretized_log_prob_nats(LEVELS.astype(dtype), mean, log_var)
        assert log_prob.dtype == dtype
    # In float32 an edge lies within 1e-7 of its place, seen through the slope of the cumulative distribution.
    rounding = 1e-10 if x64_on else np.minimum(1e-5 + 1e-7 / np.exp(log_var[..., 0] / 2), 1e-2)
    total = np.exp(np.float64(log_prob)).sum(axis=-1)
    assert np.all(np.abs(total - 1) < rounding + 256e-12)


def test_the_decoder_integrates_the_gaussian_over_bins(x64):
    mean, log_var = (a[..., None] for a in np.meshgrid(MEANS, LOG_VARS))
    std = np.exp(log_var / 2)
    lower, upper = (LOWER - mean) / std, (UPPER - mean) / std
    prob = np.where(lower > 0, norm.sf(lower) - norm.sf(upper), norm.cdf(upper) - norm.cdf(lower))
    expected = np.log(np.maximum(prob, 1e-12))
    np.testing.assert_allclose(discretized_log_prob_nats(LEVELS, mean, log_var), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_prior_term_of_the_linear_schedule(dtype):
    """`L_T = 0.97e-5` bits a dimension where `E[x_0**2] = 1/3`, and `KL(q(x_T | x_0), N(0, I))` of any image."""
    schedule = linear(1000)
    with jax.enable_x64(dtype == np.float64):
        x_0 = np.full((2, 4, 4, 3), 1 / np.sqrt(3), dtype)
        ours = bits_per_dim(prior_term_nats(jnp.asarray(x_0), schedule.level(1000)), (4, 4, 3))
        np.testing.assert_allclose(ours, 0.97e-5, rtol=2e-3)
        x_0, a = np.tanh(normal(3, 5)).astype(dtype), schedule.alpha_bar
        for t in (1000, 400):
            kl = 0.5 * (a[t] * np.float64(x_0) ** 2 + (1 - a[t]) - 1 - np.log(1 - a[t]))
            ours = prior_term_nats(jnp.asarray(x_0), schedule.level(t))
            np.testing.assert_allclose(ours, kl.sum(axis=1), rtol=3e-4 if dtype == np.float32 else 1e-9)


def network(x_t, level):
    """Some prediction with a variance head and an expected error."""
    eps = jnp.tanh(x_t) * 0.9
    signal, sigma = (jnp.reshape(a, (-1,) + (1,) * (x_t.ndim - 1)) for a in (level.signal, level.sigma))
    return Prediction((x_t - sigma * eps) / signal, eps, 0.5 + 0.6 * jnp.sin(3 * x_t), x_0_mse=MSE)


def term_by_hand(schedule, times, i, x_0, eps, variance):
    """The i-th term of the bound `[B]`, from Ho et al. 2020 eq. 4-8, 11, 13 and Nichol & Dhariwal 2021 eq. 15."""
    a, t, s = schedule.alpha_bar, times[i], times[i + 1]
    beta = 1 - a[t] / a[s]
    x_t = np.sqrt(a[t]) * x_0 + np.sqrt(1 - a[t]) * eps
    eps_theta = np.tanh(x_t) * 0.9
    mean = (x_t - beta / np.sqrt(1 - a[t]) * eps_theta) / np.sqrt(1 - beta)
    large = np.log(beta)
    if s:
        small = np.log((1 - a[s]) / (1 - a[t]) * beta)
    else:  # the posterior variance of the move before, in Ho et al.'s code for a fixed large variance too
        r, q = times[i - 1], times[i]
        small = np.log((1 - a[q]) / (1 - a[r]) * (1 - a[r] / a[q]))
        large = small if variance is Variance.LARGE else large
    if variance is Variance.ANALYTIC:  # Bao et al. 2022b, eq. 8: what x_0's own error adds to beta_tilde
        log_var = np.log((np.exp(small) if s else 0) + MSE * a[s] * beta**2 / (1 - a[t]) ** 2)
    else:
        v = {"small": 0.0, "large": 1.0, "learned": 0.5 + 0.6 * np.sin(3 * x_t)}[variance.value]
        log_var = v * large + (1 - v) * small
    if s:
        true = np.sqrt(a[s]) * beta / (1 - a[t]) * x_0 + np.sqrt(1 - beta) * (1 - a[s]) / (1 - a[t]) * x_t
        nats = 0.5 * (log_var - small + np.exp(small - log_var) + (true - mean) ** 2 / np.exp(log_var) - 1)
    else:
        value = np.round((x_0 + 1) * 127.5).astype(int)
        std = np.exp(log_var / 2)
        prob = norm.cdf((UPPER[value] - mean) / std) - norm.cdf((LOWER[value] - mean) / std)
        nats = -np.log(np.maximum(prob, 1e-12))
    return nats.reshape(len(x_0), -1).sum(axis=1), np.mean((eps_theta - eps) ** 2, axis=(1, 2, 3))


@each("variance", VARIANCES)
@pytest.mark.parametrize("times", [[20, 19, 18, 10, 3, 2, 1, 0], [17, 4, 0]], ids=["long", "short"])
def test_terms_of_the_bound_are_the_papers(x64, variance, times):
    schedule = linear(20, beta_start=1e-3, beta_end=0.3)
    x_0 = LEVELS[np.random.default_rng(0).integers(0, 256, (4, 3, 3, 2))]
    moves = (np.arange(len(times) - 1), schedule.transitions(times))
    ours = jax.jit(partial(bound_terms, network, variance=variance))(x_0, keys(4), indexed=moves)
    for i in range(len(times) - 1):
        move_keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys(4))
        eps = np.asarray(noise_like(move_keys, x_0))
        nats, eps_mse = term_by_hand(schedule, times, i, x_0, eps, variance)
        np.testing.assert_allclose(ours["nats"][i], nats, rtol=1e-6)
        np.testing.assert_allclose(ours["eps_mse"][i], eps_mse, rtol=1e-9)


def test_terms_of_a_batch_of_times_are_those_of_a_run_of_moves(x64):
    """Also with the decoder and the KL terms side by side in one batch, as in training."""
    schedule, x_0 = linear(20), LEVELS[np.random.default_rng(1).integers(0, 256, (4, 2, 2, 1))]
    transitions, index = schedule.transitions(), np.array([19, 0, 7, 19])
    term = jax.jit(partial(bound_term, network, variance=Variance.LEARNED))
    batch = term(x_0, keys(4), transition=pick(transitions, index))
    for i in range(4):
        one, move = slice(i, i + 1), pick(transitions, index[i])
        alone = term(x_0[one], keys(4)[one], transition=move)
        np.testing.assert_allclose(batch["nats"][i], alone["nats"][0], rtol=1e-9)


def test_terms_taken_in_pieces_are_the_whole(x64):
    x_0, transitions = LEVELS[np.random.default_rng(1).integers(0, 256, (4, 2, 2, 1))], linear(20).transitions()
    moves = (np.arange(20), transitions)
    terms = jax.jit(partial(bound_terms, network, x_0, keys(4), variance=Variance.SMALL))
    whole = terms(indexed=moves)["nats"]
    for part in (slice(0, 5), slice(5, 20)):
        np.testing.assert_allclose(terms(indexed=pick(moves, part))["nats"], whole[part], rtol=1e-9)


# 8-bit values of a normal variable, rounded and clipped: the probability of a value is the density over its bin.
MEAN, STD = 0.1, 0.35
VALUE_PROB = norm.cdf((UPPER - MEAN) / STD) - norm.cdf((LOWER - MEAN) / STD)


def expected_bound(schedule, variance):
    """L_T and the expected terms for such values and the Gaussian's denoiser, `[T]` nats, by algebra and quadrature.

    The denoiser is affine in x_0 and eps, so that the squared error of x_0 is a sum of two squares.
    """
    transitions = schedule.transitions()
    now, next = transitions.now, transitions.next
    var_t = now.signal**2 * STD**2 + now.sigma**2
    log_var = transitions.log_var_large if variance is Variance.LARGE else transitions.log_var_small
    log_var = np.append(log_var[:-1], transitions.log_var_small[-1])
    kept, noise = (now.sigma**2 / var_t), now.signal * now.sigma * STD**2 / var_t
    mse = (VALUE_PROB @ (LEVELS - MEAN) ** 2) * kept**2 + noise**2
    weight = next.signal * transitions.beta / now.sigma**2
    gap = transitions.log_var_small - log_var
    nats = 0.5 * (np.exp(gap) - gap - 1 + weight**2 * mse * np.exp(-log_var))
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(60)
    mean = (LEVELS - (LEVELS - MEAN) * kept[-1])[:, None] + noise[-1] * nodes
    std = np.exp(log_var[-1] / 2)
    prob = norm.cdf((UPPER[:, None] - mean) / std) - norm.cdf((LOWER[:, None] - mean) / std)
    log_prob = np.log(np.maximum(prob, 1e-12)) @ (node_weights / node_weights.sum())
    nats[-1] = -VALUE_PROB @ log_prob
    a = schedule.alpha_bar[-1]
    return 0.5 * (a * (VALUE_PROB @ LEVELS**2) - a - np.log1p(-a)), nats


def test_the_bound_is_above_the_exact_likelihood_and_within_one_percent_of_it():
    """At T = 4000 (cosine), on 8-bit values of a Gaussian, with its denoiser and variance beta.

    The exact likelihood of a value is the Gaussian's integral over its bin. Each image's own likelihood is subtracted
    from its bound, which leaves the sampling error of the noise alone.
    """
    schedule, (num, dims) = cosine(4000), (512, 64)
    x_0 = np.clip(np.round((MEAN + STD * normal(num, dims) + 1) * 127.5), 0, 255).astype(int)
    exact = -np.log(VALUE_PROB[x_0]).sum(axis=1) / dims
    oracle = Gaussian(np.full(dims, MEAN), STD**2 * np.eye(dims))
    moves = (np.arange(4000), jax.tree.map(np.float32, schedule.transitions()))

    @jax.jit
    def terms(x_0):
        return bound_terms(oracle.denoiser, x_0, keys(num), indexed=moves, variance=Variance.LARGE)["nats"]

    x_0 = jnp.asarray(LEVELS[x_0], jnp.float32)
    nats = np.float64(terms(x_0)) / dims
    prior = np.float64(prior_term_nats(x_0, schedule.level(4000))) / dims
    gap = nats.sum(axis=0) + prior - exact
    error = gap.std() / np.sqrt(num)
    assert gap.mean() > 2 * error
    assert gap.mean() + 2 * error < 0.01 * exact.mean()
    expected_prior, expected = expected_bound(schedule, Variance.LARGE)
    entropy = -VALUE_PROB @ np.log(VALUE_PROB)
    assert entropy < expected_prior + expected.sum() < 1.005 * entropy
    np.testing.assert_allclose(gap.mean(), expected_prior + expected.sum() - entropy, atol=4 * error)
    each_error = nats.std(axis=1) / np.sqrt(num)
    assert np.mean(np.abs(nats.mean(axis=1) - expected) < 3 * each_error + 1e-5 * expected + 2e-6) > 0.98


@each("schedule", {"linear": linear, "cosine": cosine})
def test_the_expected_bound_holds_for_both_variances(x64, schedule):
    """Terms averaged over noise, against algebra; beta_tilde is too small for data with a spread."""
    schedule, num = schedule(30), 40_000
    values = np.random.default_rng(0).choice(256, num, p=VALUE_PROB / VALUE_PROB.sum())
    oracle = Gaussian([MEAN], [[STD**2]])
    entropy = -VALUE_PROB @ np.log(VALUE_PROB)
    moves = (np.arange(30), schedule.transitions())
    totals = {}
    for variance in (Variance.SMALL, Variance.LARGE):
        nats = bound_terms(oracle.denoiser, LEVELS[values][:, None], keys(num), indexed=moves, variance=variance)[
            "nats"
        ]
        prior, expected = expected_bound(schedule, variance)
        np.testing.assert_allclose(nats.mean(axis=1), expected, atol=1e-12, rtol=0.06)
        np.testing.assert_allclose(nats.sum(axis=0).mean(), expected.sum(), rtol=0.02)
        totals[variance] = prior + expected.sum()
    assert totals[Variance.SMALL] > totals[Variance.LARGE] > entropy


def test_bits_are_nats_over_ln_2_and_dimensions():
    assert bits_per_dim(3 * math.log(2) * 48, (4, 4, 3)) == pytest.approx(3, rel=1e-12)


def test_a_uniform_density_over_the_256_bins_has_eight_bits():
    """Dequantised images fill [-1 - 1/255, 1 + 1/255], 256 bins of width 1/127.5."""
    shape = (4, 4, 3)
    log_density = -math.prod(shape) * math.log(2 + 2 / 255)
    assert density_to_bits_per_dim(log_density, shape) == pytest.approx(8, rel=1e-12)

"""The variance between its two extremes, and the losses that learn it, against NumPy and a Gaussian's true variance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.analytic import ALL_TARGETS, each, keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.likelihood import bits_per_dim, bound_terms
from ddpm_jax.diffusion.losses import l_hybrid, l_simple, l_vlb, min_snr_weight, p2_weight, v_weight, x_0_weight
from ddpm_jax.diffusion.prediction import Prediction, as_denoiser
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

T = 40
SCHEDULE = linear(T, beta_start=1e-3, beta_end=0.2)
TRANSITIONS = SCHEDULE.transitions()
TIMES = np.array([40, 17, 2, 1])
TRANSITION = pick(TRANSITIONS, T - TIMES)
VALUES = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 2))
X_0 = VALUES / 127.5 - 1
PARAMS = {"mean": normal(2, 2, seed=5), "var": normal(2, 2, seed=6)}


def network(params, x_t, index, label):
    """Two heads, `[B, H, W, 2 C]`: the mean's and the variance's."""
    mean = jnp.sin(x_t @ params["mean"]) + 0.01 * index[:, None, None, None]
    return jnp.concatenate([mean, jnp.tanh(x_t @ params["var"])], axis=-1)


def denoiser(params, target=ALL_TARGETS["eps"]):
    return as_denoiser(network, params, target, learned_variance=True)


def log_var_of(v, transition):
    prediction = Prediction(x_0=jnp.zeros((len(v), 1)), eps=jnp.zeros((len(v), 1)), var_frac=jnp.asarray(v)[:, None])
    return np.asarray(p_mean_log_var(prediction, jnp.zeros((len(v), 1)), transition, Variance.LEARNED)[1])[:, 0]


@pytest.mark.parametrize("t", [40, 17, 2])
def test_v_lies_between_beta_tilde_and_beta(t):
    """`exp(v log beta + (1 - v) log beta_tilde)`: the extremes at 0 and 1, in between in between, even in the log."""
    a, v = SCHEDULE.alpha_bar, np.linspace(0, 1, 11)
    beta = 1 - a[t] / a[t - 1]
    beta_tilde = (1 - a[t - 1]) / (1 - a[t]) * beta
    log_var = log_var_of(v, pick(TRANSITIONS, T - t))
    np.testing.assert_allclose(np.exp(log_var[[0, -1]]), [beta_tilde, beta], rtol=1e-9)
    assert np.all(np.diff(log_var) > 0)
    np.testing.assert_allclose(np.exp(log_var), beta**v * beta_tilde ** (1 - v), rtol=1e-9)


def test_at_the_last_move_v_lies_between_the_stand_in_and_beta():
    """Nichol & Dhariwal's code: the small extreme is clipped to the posterior variance of t = 2, beta is not."""
    a, v = SCHEDULE.alpha_bar, np.linspace(0, 1, 11)
    clipped = (1 - a[1]) / (1 - a[2]) * (1 - a[2] / a[1])
    log_var = log_var_of(v, pick(TRANSITIONS, T - 1))
    np.testing.assert_allclose(log_var, v * np.log(1 - a[1]) + (1 - v) * np.log(clipped), rtol=1e-9)
    assert np.all(np.diff(log_var) > 0)


def test_the_variance_head_is_scaled_from_minus_one_to_one():
    """A raw output of -1, 0, 1 is a fraction of 0, 1/2, 1, for every target."""
    for target in ALL_TARGETS.values():
        output = lambda variables, x, index, label: jnp.concatenate([x, 0 * x + variables], axis=-1)
        for raw, fraction in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
            said = as_denoiser(output, raw, target, learned_variance=True)(jnp.asarray(X_0), TRANSITION.now)
            np.testing.assert_allclose(said.var_frac, fraction, atol=1e-12)
            assert said.x_0.shape == said.eps.shape == said.var_frac.shape == X_0.shape


def losses_of(loss, params, target=ALL_TARGETS["eps"]):
    return loss(denoiser(params, target), X_0, keys(4), TRANSITION)


@each("target", ALL_TARGETS)
def test_the_hybrid_loss_moves_the_mean_as_l_simple_does(target):
    """Its gradient on the mean's parameters equals that of L_simple bit for bit; the variance's is the bound's."""

    @partial(jax.jit, static_argnums=0)
    def gradient(loss):
        return jax.grad(lambda params: jnp.sum(losses_of(loss, params, target)["loss"]))(PARAMS)

    simple, hybrid = gradient(l_simple(v_weight)), gradient(l_hybrid(T, weight=v_weight, vlb_weight=0.3))
    bound = gradient(l_vlb(T))
    np.testing.assert_array_equal(hybrid["mean"], simple["mean"])
    np.testing.assert_array_equal(simple["var"], 0)
    np.testing.assert_allclose(hybrid["var"], 0.3 * bound["var"], rtol=1e-9)
    assert np.abs(hybrid["var"]).min() > 0
    assert np.abs(bound["mean"]).min() > 0


def vlb_by_hand():
    """T times each image's term of the bound, bits per dimension, in NumPy from the papers."""
    a, eps = SCHEDULE.alpha_bar, np.asarray(noise_like(keys(4), X_0))
    vlb, eps_mse = [], []
    for i, t in enumerate(TIMES):
        beta = 1 - a[t] / a[t - 1]
        x_t = np.sqrt(a[t]) * X_0[i] + np.sqrt(1 - a[t]) * eps[i]
        eps_theta = np.sin(x_t @ PARAMS["mean"]) + 0.01 * (t - 1)
        mean = (x_t - beta / np.sqrt(1 - a[t]) * eps_theta) / np.sqrt(1 - beta)
        beta_tilde = (1 - a[max(t, 2) - 1]) / (1 - a[max(t, 2)]) * (1 - a[max(t, 2)] / a[max(t, 2) - 1])
        v = (np.tanh(x_t @ PARAMS["var"]) + 1) / 2
        log_var = v * np.log(beta) + (1 - v) * np.log(beta_tilde)
        if t > 1:
            true = (np.sqrt(a[t - 1]) * beta * X_0[i] + np.sqrt(1 - beta) * (1 - a[t - 1]) * x_t) / (1 - a[t])
            kl = log_var - np.log(beta_tilde) + (beta_tilde + (true - mean) ** 2) / np.exp(log_var) - 1
            nats = 0.5 * kl.sum()
        else:
            std, value = np.exp(log_var / 2), VALUES[i]
            upper = np.where(value == 255, 1, norm.cdf((X_0[i] + 1 / 255 - mean) / std))
            lower = np.where(value == 0, 0, norm.cdf((X_0[i] - 1 / 255 - mean) / std))
            nats = -np.log(np.maximum(upper - lower, 1e-12)).sum()
        vlb.append(T * nats / (np.log(2) * 18))
        eps_mse.append(np.mean((eps_theta - eps[i]) ** 2))
    return np.array(vlb), np.array(eps_mse)


def test_the_losses_with_the_bound_are_the_papers():
    """`L_hybrid = L_simple + lambda L_vlb` (Nichol & Dhariwal 2021, eq. 16) and L_vlb, term by term."""
    vlb, eps_mse = vlb_by_hand()
    hybrid, alone = losses_of(l_hybrid(T), PARAMS), losses_of(l_vlb(T), PARAMS)
    np.testing.assert_allclose(hybrid["loss"], eps_mse + 0.001 * vlb, rtol=1e-6)
    np.testing.assert_allclose(losses_of(l_hybrid(T, vlb_weight=0.5), PARAMS)["loss"], eps_mse + 0.5 * vlb, rtol=1e-6)
    for terms in (hybrid, alone):
        np.testing.assert_allclose(terms["vlb"], vlb, rtol=1e-6)
        np.testing.assert_allclose(terms["eps_mse"], eps_mse, rtol=1e-7)
    np.testing.assert_allclose(alone["loss"], vlb, rtol=1e-6)


def test_l_vlb_over_all_times_is_the_bound_but_for_its_prior_term():
    """The mean of T times a term over t = 1..T is the sum of the terms, with the same noise at each time."""
    nats = bound_terms(denoiser(PARAMS), X_0, keys(4), indexed=(np.arange(T), TRANSITIONS), variance=Variance.LEARNED)
    every = []
    for i in range(T):
        move_keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys(4))
        move = jax.tree.map(lambda leaf, i=i: np.full(4, leaf[i]), TRANSITIONS)
        every.append(l_vlb(T)(denoiser(PARAMS), X_0, move_keys, move)["loss"])
    np.testing.assert_allclose(np.mean(every, axis=0), bits_per_dim(nats["nats"].sum(axis=0), (3, 3, 2)), rtol=1e-9)


@pytest.mark.parametrize("t", [pytest.param(2, marks=pytest.mark.slow), 5, pytest.param(30, marks=pytest.mark.slow)])
def test_the_least_bound_has_the_true_posterior_variance(t):
    """Of a Gaussian's q(x_s | x_t), which is `beta var_s / var_t`: the minimum of L_vlb over v, by Newton's method."""
    num, c, schedule = 40_000, 0.4, cosine(40)
    oracle, transition = Gaussian([0.2], [[c]]), pick(schedule.transitions(), 40 - t)
    x_0 = oracle.sample(jax.random.key(0), num)

    def mean_loss(v):
        denoise = lambda x_t, level: oracle.denoiser(x_t, level)._replace(var_frac=jnp.full((num, 1), v))
        batch = jax.tree.map(lambda leaf: jnp.full(num, leaf), transition)
        return jnp.mean(l_vlb(40)(denoise, x_0, keys(num), batch)["loss"])

    slope, curvature = jax.jit(jax.grad(mean_loss)), jax.jit(jax.hessian(mean_loss))
    v = 0.5
    for _ in range(8):
        v = v - slope(v) / curvature(v)
    var = np.exp(v * transition.log_var_large + (1 - v) * transition.log_var_small)
    var_t, var_s = (level.signal**2 * c + level.sigma**2 for level in (transition.now, transition.next))
    np.testing.assert_allclose(var, transition.beta * var_s / var_t, rtol=5 * np.sqrt(2 / num))
    assert 0 < v < 1


def test_min_snr_and_p2_weigh_the_error_of_x_0():
    """By `min(SNR, gamma)` (Hang et al. 2023) and `SNR / (k + SNR)**gamma` (Choi et al. 2022)."""
    level = TRANSITION.now
    snr = SCHEDULE.alpha_bar[TIMES] / (1 - SCHEDULE.alpha_bar[TIMES])
    signal, sigma = (a[:, None, None, None] for a in (level.signal, level.sigma))
    x_t = signal * X_0 + sigma * noise_like(keys(4), X_0)
    x_0_mse = np.mean((denoiser(PARAMS)(x_t, level).x_0 - X_0) ** 2, axis=(1, 2, 3))
    for weight, of_x_0 in (
        (min_snr_weight(), np.minimum(snr, 5)),
        (min_snr_weight(0.1), np.minimum(snr, 0.1)),
        (p2_weight(), snr / (1 + snr)),
        (p2_weight(0.5, 2.0), snr / (2 + snr) ** 0.5),
        (x_0_weight, 1.0),
    ):
        for loss in (l_simple(weight), l_hybrid(T, weight=weight, vlb_weight=0.0)):
            np.testing.assert_allclose(losses_of(loss, PARAMS)["loss"], of_x_0 * x_0_mse, rtol=1e-8)


def test_the_weight_that_suits_a_target_is_the_plain_error_of_its_output():
    """A network that says v, trained with `v_weight`, minimises the mean square of v itself."""
    level = TRANSITION.now
    signal, sigma = (a[:, None, None, None] for a in (level.signal, level.sigma))
    eps = noise_like(keys(4), X_0)
    x_t = signal * X_0 + sigma * eps
    output = network(PARAMS, x_t, level.t - 1, None)[..., :2]
    expected = np.mean((output - (signal * eps - sigma * X_0)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses_of(l_simple(v_weight), PARAMS, ALL_TARGETS["v"])["loss"], expected, rtol=1e-7)

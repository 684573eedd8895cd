"""One weighted noise error is every regression loss, and its minimum is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_TARGETS, GAUSSIAN, each, keys, normal, pick

from ddpm_jax.diffusion import time_sampling
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.losses import eps_weight, l_simple, min_snr_weight, p2_weight, v_weight, x_0_weight
from ddpm_jax.diffusion.prediction import Prediction, as_denoiser
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
WEIGHTS = {"eps": eps_weight, "x_0": x_0_weight, "v": v_weight}
TIMES = np.array([1, 30, 500, 1000])
TRANSITION = pick(SCHEDULE.transitions(), 1000 - TIMES)
X_0 = np.tanh(normal(4, 3, 3, 2))
NETWORK_WEIGHT = normal(2, 2, seed=5)


def network(variables, x_t, index, label):
    """Some function of the noisy image and its time."""
    return jnp.sin(x_t @ variables) + 0.001 * index[:, None, None, None]


@each("target", ALL_TARGETS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_make_the_noise_error_that_of_any_target(target, name):
    """Whatever the network outputs, weight `name` gives the plain mean square of `name`'s error."""
    denoise = as_denoiser(network, NETWORK_WEIGHT, target)
    terms = l_simple(WEIGHTS[name])(denoise, X_0, keys(4), TRANSITION)
    level, eps = TRANSITION.now, noise_like(keys(4), X_0)
    signal, sigma = (a[:, None, None, None] for a in (level.signal, level.sigma))
    said = denoise(signal * X_0 + sigma * eps, level)
    measured = ALL_TARGETS[name]
    error = measured.of(said.x_0, said.eps, level) - measured.of(X_0, eps, level)
    np.testing.assert_allclose(terms["loss"], np.mean(error**2, axis=(1, 2, 3)), rtol=1e-8)
    np.testing.assert_allclose(terms["eps_mse"], np.mean((said.eps - eps) ** 2, axis=(1, 2, 3)), rtol=1e-8)


def test_l_simple_is_the_mean_square_of_the_noise_left_over():
    """Ho et al. 2020, eq. 14, for a network that answers with x_t itself."""
    eps = np.asarray(noise_like(keys(4), X_0))
    alpha_bar = SCHEDULE.alpha_bar[TIMES][:, None, None, None]
    x_t = np.sqrt(alpha_bar) * X_0 + np.sqrt(1 - alpha_bar) * eps
    loss = l_simple()(lambda x, level: Prediction(x_0=x, eps=x), X_0, keys(4), TRANSITION)["loss"]
    np.testing.assert_allclose(loss, [np.mean((x_t[i] - eps[i]) ** 2) for i in range(4)], rtol=1e-10)


def test_the_loss_of_an_image_depends_on_its_own_key_and_time():
    denoise = as_denoiser(network, NETWORK_WEIGHT, ALL_TARGETS["v"])
    others = np.array([2, 0, 2, 1])
    batch = l_simple(v_weight)(denoise, X_0, keys(4), TRANSITION)["loss"]
    another = l_simple(v_weight)(denoise, X_0[others], keys(4)[others], pick(TRANSITION, others))["loss"]
    np.testing.assert_allclose(another, batch[others], rtol=1e-10)


EXACT_LOSS = jax.jit(partial(l_simple(), GAUSSIAN.denoiser))


@pytest.mark.parametrize("t", [10, 300, 1000])
def test_the_exact_denoiser_attains_the_least_loss(t):
    """`E (eps - E[eps | x_t])**2` has the mean eigenvalue of `I - sigma**2 Cov(x_t)^-1`, the posterior covariance."""
    num = 20000
    transition = pick(SCHEDULE.transitions([t, t - 1]), np.zeros(num, int))
    level = SCHEDULE.level(t)
    cov_t = level.signal**2 * GAUSSIAN.covariance + level.sigma**2 * np.eye(3)
    least = np.trace(np.eye(3) - level.sigma**2 * np.linalg.inv(cov_t)) / 3
    x_0 = GAUSSIAN.sample(jax.random.key(1), num)
    loss = EXACT_LOSS(x_0, keys(num), transition)["loss"]
    np.testing.assert_allclose(np.mean(loss), least, atol=5 * np.std(loss) / np.sqrt(num))


def test_weights_of_the_papers_that_balance_the_levels():
    """`min(SNR, gamma) / SNR` (Hang et al. 2023) and `1 / (k + SNR)**gamma` (Choi et al. 2022)."""
    snr = np.array([1e-4, 0.5, 5.0, 20.0, 1e4])
    np.testing.assert_allclose(min_snr_weight(5.0)(np.log(snr)), np.minimum(snr, 5) / snr, rtol=1e-12)
    np.testing.assert_allclose(p2_weight(0.5, 2.0)(np.log(snr)), 1 / np.sqrt(2 + snr), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8])
def test_antithetic_times_come_in_pairs_of_constant_sum(batch_size):
    t, _ = time_sampling.antithetic(1000).draw((), jax.random.key(3), batch_size)
    half = (batch_size + 1) // 2
    assert t.shape == (batch_size,)
    np.testing.assert_array_equal(t[half:] + t[: batch_size - half], 1001)
    assert len(np.unique(t[:half])) == half

"""The forward process composes (Chapman–Kolmogorov), and its posterior is what Bayes says, by integration on a grid."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.analytic import ALL_SCHEDULES, PROPERTY, each, keys, normal, pick

from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_posterior, q_sample, q_step
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")


def log_normal(x, mean, var):
    return -0.5 * (x - mean) ** 2 / var - 0.5 * np.log(2 * np.pi * var)


def test_q_sample_mixes_image_and_noise_by_the_level_of_each_image():
    schedule, t = linear(1000), np.array([0, 1, 500, 1000])
    x_0, eps = normal(2, 4, 3, 3, 1)
    signal, sigma = np.sqrt(schedule.alpha_bar[t]), np.sqrt(1 - schedule.alpha_bar[t])
    expected = signal[:, None, None, None] * x_0 + sigma[:, None, None, None] * eps
    np.testing.assert_allclose(q_sample(x_0, eps, schedule.level(t)), expected, rtol=1e-12)
    np.testing.assert_allclose(q_sample(x_0, eps, schedule.level(500))[2], expected[2], rtol=1e-12)


@each("schedule", ALL_SCHEDULES)
@PROPERTY
@given(timesteps=st.sets(st.integers(1, 40), min_size=6, max_size=6))
def test_steps_compose_to_the_closed_form(schedule, timesteps):
    """`q_step` is linear: its coefficients carry mean and variance from x_0 through any chain of times."""
    transitions = schedule(40).transitions([*sorted(timesteps, reverse=True), 0])
    one, zero = jnp.ones_like(transitions.beta), jnp.zeros_like(transitions.beta)
    keep, add = q_step(one, zero, transitions), q_step(zero, one, transitions)
    mean, var = 1.0, 0.0
    for a, b in zip(keep[::-1], add[::-1], strict=True):
        mean, var = a * mean, a**2 * var + b**2
    level = schedule(40).level(max(timesteps))
    np.testing.assert_allclose([mean, var], [level.signal, level.sigma**2], rtol=1e-10)


def test_noised_step_by_step_images_have_the_closed_forms_moments():
    num, timesteps = 20000, [40, 31, 12, 1, 0]
    schedule = linear(40, beta_end=0.2)
    transitions = schedule.transitions(timesteps)
    x = jnp.full((num, 2), 0.7)
    for i in reversed(range(len(transitions.beta))):
        x = q_step(x, noise_like(keys(num, seed=i), x), pick(transitions, i))
    level = schedule.level(40)
    error = 5 * level.sigma / np.sqrt(2 * num)
    np.testing.assert_allclose(np.mean(x), 0.7 * level.signal, atol=error)
    np.testing.assert_allclose(np.cov(x.T), level.sigma**2 * np.eye(2), atol=error * 2)


@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000)], ids=["linear", "cosine"])
@pytest.mark.parametrize(("t", "s"), [(2, 1), (10, 9), (50, 1), (500, 100), (1000, 500), (1000, 999)])
def test_q_posterior_is_bayes_rule_for_any_two_times(schedule, t, s):
    alpha_bar_t, alpha_bar_s = schedule.alpha_bar[[t, s]]
    x_0 = 0.6
    x_t = np.sqrt(alpha_bar_t) * x_0 - 1.3 * np.sqrt(1 - alpha_bar_t)
    ratio = alpha_bar_t / alpha_bar_s
    centre, width = np.sqrt(alpha_bar_s) * x_0, np.sqrt(1 - alpha_bar_s)
    x_s = centre + width * np.linspace(-12, 12, 100001)
    log_density = log_normal(x_t, np.sqrt(ratio) * x_s, 1 - ratio) + log_normal(x_s, centre, width**2)
    density = np.exp(log_density - log_density.max())
    mean = np.sum(x_s * density) / np.sum(density)
    var = np.sum((x_s - mean) ** 2 * density) / np.sum(density)

    transition = pick(schedule.transitions([t, s]), 0)
    posterior_mean, log_var = q_posterior(jnp.array([x_0]), jnp.array([x_t]), transition)
    np.testing.assert_allclose(posterior_mean[0], mean, rtol=1e-7)
    np.testing.assert_allclose(np.exp(log_var), var, rtol=1e-7)


def test_q_posterior_ends_at_the_clean_image():
    x_0, x_t = normal(2, 3, 2)
    mean, _ = q_posterior(x_0, x_t, pick(linear(1000).transitions([100, 0]), 0))
    np.testing.assert_allclose(mean, x_0, rtol=1e-12)


def test_a_batch_of_moves_is_each_move_on_its_image():
    x_0, x_t = normal(2, 3, 2, 2, 1)
    moves = linear(1000).transitions([900, 300, 10, 0])
    mean, log_var = q_posterior(x_0, x_t, moves)
    x_s = q_step(x_0, x_t, moves)
    for i in range(3):
        alone = slice(i, i + 1)
        mean_i, log_var_i = q_posterior(x_0[alone], x_t[alone], pick(moves, i))
        np.testing.assert_allclose(mean[alone], mean_i, rtol=1e-12)
        np.testing.assert_allclose(log_var[i, 0, 0, 0], log_var_i, rtol=1e-12)
        np.testing.assert_allclose(x_s[alone], q_step(x_0[alone], x_t[alone], pick(moves, i)), rtol=1e-12)

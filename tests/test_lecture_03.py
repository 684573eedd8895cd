"""Section 3 of the lecture: what the betas determine, and why they grow."""

import numpy as np
import pytest
from support.analytic import ALL_SCHEDULES, each

from ddpm_jax.diffusion.gaussian import normal_kl_nats
from ddpm_jax.diffusion.likelihood import prior_term_nats
from ddpm_jax.diffusion.schedules import NoiseSchedule, from_betas, linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

LINEAR = linear(1000)
BETAS = np.linspace(1e-4, 0.02, 1000)


def test_3_1_the_logarithm_of_the_product_is_a_series_in_the_betas():
    orders = np.array([np.sum(BETAS**n) / n for n in range(1, 9)])
    np.testing.assert_allclose(orders.sum(), -np.log(LINEAR.alpha_bar[-1]), rtol=1e-12)
    assert orders[1] == pytest.approx(0.067, abs=1e-3)
    assert orders[2:].sum() < 1e-3


def test_3_2_the_sum_of_the_linear_betas():
    np.testing.assert_allclose(LINEAR.beta.sum(), 1000 * (1e-4 + 0.02) / 2, rtol=1e-12)
    np.testing.assert_allclose(LINEAR.beta.sum(), 10.05, rtol=1e-12)


def test_3_3_the_last_noise_of_the_linear_schedule():
    np.testing.assert_allclose(np.exp(np.sum(np.log1p(-BETAS))), 4.0358e-5, rtol=1e-5)
    np.testing.assert_allclose(LINEAR.alpha_bar[-1], 4.0358e-5, rtol=1e-5)
    np.testing.assert_allclose(LINEAR.level(1000).signal, 0.00635, rtol=1e-3)


@each("schedule", ALL_SCHEDULES)
def test_3_4_the_level_is_the_logistic_function_of_the_log_snr(schedule):
    ours = schedule(40)
    level = ours.level(np.arange(1, 41))
    np.testing.assert_allclose(ours.alpha_bar[1:], 1 / (1 + np.exp(-np.asarray(level.log_snr))), rtol=1e-9)
    np.testing.assert_allclose(1 - ours.alpha_bar[1:], 1 / (1 + np.exp(np.asarray(level.log_snr))), rtol=1e-9)


@each("schedule", ALL_SCHEDULES)
def test_3_5_how_far_one_step_lowers_the_log_snr(schedule):
    ours = schedule(40)
    ratio = np.exp(ours.log_snr[1:] - ours.log_snr[:-1])
    by_products = (1 - ours.beta[1:]) * (1 - ours.alpha_bar[1:-1]) / (1 - ours.alpha_bar[2:])
    np.testing.assert_allclose(ratio, by_products, rtol=1e-9)
    np.testing.assert_allclose(ratio, 1 - ours.beta[1:] / (1 - ours.alpha_bar[2:]), rtol=1e-8, atol=1e-12)


def test_3_6_equal_steps_of_the_log_snr_need_growing_betas():
    log_snr = np.linspace(9, -9, 60)
    even = NoiseSchedule(np.concatenate([[1.0], 1 / (1 + np.exp(-log_snr))]))
    np.testing.assert_allclose(np.diff(even.log_snr), -18 / 59, rtol=1e-9)
    np.testing.assert_allclose(even.beta[1:], (1 - np.exp(-18 / 59)) * (1 - even.alpha_bar[2:]), rtol=1e-9)
    assert np.all(np.diff(even.beta[1:]) > 0)


@pytest.mark.parametrize("beta", [0.1, 0.01, 1e-4])
def test_3_7_the_second_of_equal_steps_lowers_the_log_snr_by_log_2(beta):
    equal = from_betas([beta] * 3)
    fall = equal.log_snr[0] - equal.log_snr[1]
    np.testing.assert_allclose(fall, np.log((2 - beta) / (1 - beta)), rtol=1e-9)
    np.testing.assert_allclose(fall, -np.log(1 - 1 / (2 - beta)), rtol=1e-9)
    assert fall == pytest.approx(np.log(2), abs=0.6 * beta)


@pytest.mark.parametrize("x_0", [-1.0, 0.0, 0.4, 1.0])
def test_3_8_what_is_left_of_a_pixel_at_the_end(x_0):
    """The divergence by quadrature, by the KL of two Gaussians, and as the bound's first term."""
    alpha_bar = 0.3
    closed = (alpha_bar * (x_0**2 - 1) - np.log(1 - alpha_bar)) / 2
    x = np.linspace(-10, 10, 20001)
    log_q = -((x - np.sqrt(alpha_bar) * x_0) ** 2) / (2 * (1 - alpha_bar)) - np.log(2 * np.pi * (1 - alpha_bar)) / 2
    log_p = -(x**2) / 2 - np.log(2 * np.pi) / 2
    np.testing.assert_allclose(np.trapezoid(np.exp(log_q) * (log_q - log_p), x), closed, rtol=1e-9)
    np.testing.assert_allclose(normal_kl_nats(np.sqrt(alpha_bar) * x_0, np.log(1 - alpha_bar), 0.0, 0.0), closed)
    last = LINEAR.alpha_bar[-1]
    nats = np.asarray(prior_term_nats(np.full((1, 1), x_0), LINEAR.level(1000))).item()
    np.testing.assert_allclose(nats, (last * (x_0**2 - 1) - np.log1p(-last)) / 2, rtol=1e-6, atol=1e-15)
    assert nats <= -np.log1p(-last) / 2 * (1 + 1e-6)

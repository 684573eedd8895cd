"""Row 14 of the lecture: orthogonal waves, the decay of their coefficients, flat noise, coarse first, time as waves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.schedules import NoiseLevel, linear
from ddpm_jax.diffusion.spectrum import band_power, forward_power
from ddpm_jax.models.layers import timestep_embedding

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

NUM = 4096
X = (np.arange(NUM) + 0.5) / NUM  # midpoints of one period: exact for waves of less than NUM periods
K = np.arange(1, 9)
COS, SIN = np.cos(2 * np.pi * K[:, None] * X), np.sin(2 * np.pi * K[:, None] * X)
A, B = 0.7 / K**2, -0.4 / K**1.5
SERIES = 0.3 + A @ COS + B @ SIN
R = 0.6


def coefficients(values, num=8):
    """`a_k` and `b_k` `[num]`, by a real Fourier transform of the values at the midpoints."""
    c = np.fft.rfft(values)[1 : num + 1] / NUM * np.exp(-1j * np.pi * np.arange(1, num + 1) / NUM)
    return 2 * c.real, -2 * c.imag


def smooth(x):
    return jnp.exp(jnp.sin(2 * jnp.pi * x) + 0.5 * jnp.cos(4 * jnp.pi * x))


def derivative(function):
    return jax.grad(lambda x: function(x))


def at(function, x=X):
    return np.asarray(jax.vmap(function)(jnp.asarray(x)))


def test_14_1_a_product_of_cosines_is_a_sum():
    j, k, x = 3, 5, np.linspace(-0.7, 1.9, 50)
    product = np.cos(2 * np.pi * j * x) * np.cos(2 * np.pi * k * x)
    total = np.real(np.exp(2j * np.pi * (j - k) * x) + np.exp(2j * np.pi * (j + k) * x)) / 2
    np.testing.assert_allclose(product, total, atol=1e-12)


def test_14_2_a_wave_of_whole_periods_has_integral_zero():
    for n in (1, 2, 7):
        antiderivative = np.diff(np.sin(2 * np.pi * n * np.array([0.0, 1.0])) / (2 * np.pi * n)).item()
        assert abs(np.mean(np.cos(2 * np.pi * n * X)) - antiderivative) < 1e-12
        assert abs(antiderivative) < 1e-12


def test_14_3_cosines_are_orthogonal():
    np.testing.assert_allclose(COS @ COS.T / NUM, np.eye(8) / 2, atol=1e-12)


def test_14_4_sines_are_orthogonal():
    np.testing.assert_allclose(SIN @ SIN.T / NUM, np.eye(8) / 2, atol=1e-12)


def test_14_5_a_sine_is_orthogonal_to_every_cosine():
    np.testing.assert_allclose(SIN @ COS.T / NUM, 0, atol=1e-12)
    np.testing.assert_allclose([COS.mean(axis=1), SIN.mean(axis=1)], 0, atol=1e-12)


def test_14_6_an_inner_product_is_a_coefficient():
    np.testing.assert_allclose(2 * COS @ SERIES / NUM, A, atol=1e-12)
    np.testing.assert_allclose(2 * SIN @ SERIES / NUM, B, atol=1e-12)
    np.testing.assert_allclose(SERIES.mean(), 0.3, atol=1e-12)


def test_14_7_parseval():
    np.testing.assert_allclose(np.mean(SERIES**2), 0.3**2 + np.sum(A**2 + B**2) / 2, rtol=1e-12)


def test_14_8_the_complex_coefficient_has_a_quarter_of_the_power():
    complex_wave = np.exp(-2j * np.pi * K[:, None] * X)
    np.testing.assert_allclose(np.abs(complex_wave @ SERIES / NUM) ** 2, (A**2 + B**2) / 4, rtol=1e-10)


def test_14_9_the_coefficients_of_a_derivative():
    (a, b), (da, db) = coefficients(at(smooth)), coefficients(at(derivative(smooth)))
    np.testing.assert_allclose(da, 2 * np.pi * K * b, atol=1e-10)
    np.testing.assert_allclose(db, -2 * np.pi * K * a, atol=1e-10)


def test_14_10_a_derivative_multiplies_the_power_by_the_squared_frequency():
    (a, b), (da, db) = coefficients(at(smooth)), coefficients(at(derivative(smooth)))
    np.testing.assert_allclose(da**2 + db**2, (2 * np.pi * K) ** 2 * (a**2 + b**2), rtol=1e-8)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_14_11_m_derivatives_bound_the_coefficients(m):
    function = smooth
    for _ in range(m):
        function = derivative(function)
    values = at(function)
    size, of_derivative = np.hypot(*coefficients(at(smooth))), np.hypot(*coefficients(values))
    np.testing.assert_allclose(size, of_derivative / (2 * np.pi * K) ** m, rtol=1e-6)
    assert np.all(size <= 2 * np.mean(np.abs(values)) / (2 * np.pi * K) ** m)


def test_14_12_a_step_decays_as_one_over_k():
    k = np.arange(1, 12)
    ends = [(1 - np.cos(np.pi * k)) / (2 * np.pi * k), (np.cos(np.pi * k) - 1) / (2 * np.pi * k)]  # halves of [0, 1]
    np.testing.assert_allclose(2 * (ends[0] - ends[1]), 2 / (np.pi * k) * (1 - (-1.0) ** k), atol=1e-12)
    a, b = coefficients(np.where(X < 0.5, 1.0, -1.0), 11)
    np.testing.assert_allclose(b, 2 / (np.pi * k) * (1 - (-1.0) ** k), atol=1e-5)
    np.testing.assert_allclose(a, 0, atol=1e-12)


def test_14_13_a_triangle_decays_as_one_over_k_squared():
    k = np.arange(1, 12)
    a, b = coefficients(1 - 4 * np.abs(X - 0.5), 11)
    np.testing.assert_allclose(a, -4 / (np.pi * k) ** 2 * (1 - (-1.0) ** k), atol=1e-6)
    np.testing.assert_allclose(b, 0, atol=1e-12)


def test_14_14_an_analytic_function_decays_faster_than_every_power():
    theta = 2 * np.pi * X
    closed = (R * np.cos(theta) - R**2) / (1 - 2 * R * np.cos(theta) + R**2)
    a, b = coefficients(closed, 30)
    np.testing.assert_allclose(a, R ** np.arange(1, 31), rtol=1e-6)
    np.testing.assert_allclose(b, 0, atol=1e-12)


SIZE = 16
WAVES = np.fft.fft(np.eye(SIZE), norm="ortho")
POWER = 6.0 * (1.0 + np.minimum(np.arange(SIZE), SIZE - np.arange(SIZE))) ** -2.0
LINE = Gaussian(np.zeros(SIZE), np.real(WAVES.conj().T @ np.diag(POWER) @ WAVES))
SCHEDULE = linear(1000)
LEVEL = SCHEDULE.level(300)
SNR = np.exp(SCHEDULE.log_snr[299]) * POWER


def fourier_power(covariance):
    """The expected `abs(x_k)**2` `[SIZE]` of the Fourier coefficients of a vector with this covariance."""
    return np.einsum("kj,jl,kl->k", WAVES, np.asarray(covariance), WAVES.conj()).real


def noisy_covariance(level):
    """The covariance of x_t, from the curvature of its log density."""
    curvature = jax.hessian(lambda x: LINE.log_prob(x[None], level)[0])(jnp.zeros(SIZE))
    return -np.linalg.inv(np.asarray(curvature))


def test_14_15_noise_has_the_same_power_at_every_frequency():
    np.testing.assert_allclose(np.sum(np.abs(WAVES) ** 2, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(fourier_power(np.eye(SIZE)), 1, rtol=1e-12)


def test_14_16_the_power_of_a_noisy_image():
    alpha_bar = SCHEDULE.alpha_bar[300]
    power = fourier_power(noisy_covariance(LEVEL))
    np.testing.assert_allclose(power, alpha_bar * POWER + 1 - alpha_bar, rtol=1e-8)
    np.testing.assert_allclose(power, forward_power(POWER, LEVEL), rtol=1e-8)


def test_14_17_every_band_has_its_own_signal_to_noise_ratio():
    noise = fourier_power(LEVEL.sigma**2 * np.eye(SIZE))
    np.testing.assert_allclose((fourier_power(noisy_covariance(LEVEL)) - noise) / noise, SNR, rtol=1e-7)


def test_14_18_a_band_equals_the_noise_at_its_time():
    """The equation of t: weaker bands meet the noise at smaller t."""
    alpha_bar = SCHEDULE.alpha_bar[1:]
    ratio = alpha_bar[:, None] / (1 - alpha_bar[:, None]) * POWER[: SIZE // 2 + 1]
    last = np.sum(ratio >= 1, axis=0)  # the largest t with a ratio of at least 1
    assert np.all(SCHEDULE.alpha_bar[last] >= 1 / (1 + POWER[: SIZE // 2 + 1]))
    assert np.all(SCHEDULE.alpha_bar[last + 1] < 1 / (1 + POWER[: SIZE // 2 + 1]))
    assert np.all(np.diff(last) < 0)


def test_14_19_the_estimate_scales_every_frequency():
    x_t = np.random.default_rng(0).standard_normal((5, SIZE))
    scale = LEVEL.signal * POWER / (LEVEL.signal**2 * POWER + LEVEL.sigma**2)
    estimate = np.fft.fft(np.asarray(LINE.denoiser(x_t, LEVEL).x_0), norm="ortho")
    np.testing.assert_allclose(estimate, scale * np.fft.fft(x_t, norm="ortho"), atol=1e-10)


def test_14_20_the_estimate_has_half_the_power_at_a_ratio_of_one():
    matrix = np.asarray(LINE.denoiser(np.eye(SIZE), LEVEL).x_0).T
    power = fourier_power(matrix @ noisy_covariance(LEVEL) @ matrix.T)
    np.testing.assert_allclose(power, POWER * SNR / (1 + SNR), rtol=1e-8)
    alpha_bar = 1 / (1 + POWER[3])
    level = NoiseLevel(t=1.0, signal=np.sqrt(alpha_bar), sigma=np.sqrt(1 - alpha_bar))
    matrix = np.asarray(LINE.denoiser(np.eye(SIZE), level).x_0).T
    np.testing.assert_allclose(fourier_power(matrix @ noisy_covariance(level) @ matrix.T)[3], POWER[3] / 2, rtol=1e-8)


HALF = 32
FREQUENCIES = 10000.0 ** (-np.arange(HALF) / (HALF - 1))


def test_14_21_a_shift_of_time_rotates_every_pair_of_channels():
    """The rotation depends on the shift alone."""
    sine, cosine = np.sin(FREQUENCIES * 17), np.cos(FREQUENCIES * 17)
    for t in (3.0, 400.0):
        now, later = (np.asarray(timestep_embedding(jnp.array([time]), 2 * HALF))[0] for time in (t, t + 17))
        np.testing.assert_allclose(later[:HALF], cosine * now[:HALF] + sine * now[HALF:], atol=1e-4)
        np.testing.assert_allclose(later[HALF:], cosine * now[HALF:] - sine * now[:HALF], atol=1e-4)


def test_14_22_the_inner_product_of_two_times_depends_on_their_difference():
    times = jnp.array([5.0, 45.0, 700.0, 740.0])
    code = np.asarray(timestep_embedding(times, 2 * HALF), np.float64)
    products = code @ code.T
    np.testing.assert_allclose([products[0, 1], products[2, 3]], np.sum(np.cos(40 * FREQUENCIES)), atol=1e-3)
    np.testing.assert_allclose(np.diag(products), HALF, rtol=1e-5)


def test_bands_average_the_power_of_an_image():
    """`band_power` of an image that varies along one axis alone has the power of that axis, shared by the ring."""
    row = np.random.default_rng(1).standard_normal(8)
    power = np.abs(np.fft.fft(row, norm="ortho")) ** 2 * 8  # the other axis multiplies by its size
    np.testing.assert_allclose(band_power(np.tile(row, (8, 1))[..., None])[0], power[0], rtol=1e-12)

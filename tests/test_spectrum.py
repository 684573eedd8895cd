"""Power spectra of known images, and coarse before fine: a band settles where its signal-to-noise ratio passes one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import keys, normal

from ddpm_jax.diffusion.analytic import FiniteData, Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.schedules import cosine, linear
from ddpm_jax.diffusion.spectrum import band_index, band_power, forward_power, settling_time

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 9, 1), (8, 12, 1)], ids=str)
def test_white_noise_has_power_one_in_every_band(shape):
    num = 4000
    power = np.asarray(band_power(normal(num, *shape)))
    assert power.shape == (num, min(shape[:2]) // 2 + 1)
    np.testing.assert_array_less(np.abs(power.mean(axis=0) - 1), 5 * power.std(axis=0) / np.sqrt(num))


@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (0, 2), (3, 0), (1, 1), (2, 2), (2, 3)])
def test_a_wave_lies_in_the_band_of_its_frequency(rows, columns):
    """A cosine of amplitude a has two coefficients of power `a**2 H W / 4`, shared by all of its ring."""
    y, x = np.mgrid[:8, :8] / 8
    wave = 3.0 * np.cos(2 * np.pi * (rows * y + columns * x) + 0.4)[..., None]
    band = int(np.round(np.hypot(rows, columns)))
    ring = sum(int(np.round(np.hypot(j, k))) == band for j in range(-4, 4) for k in range(-4, 4))
    expected = np.zeros(5)
    expected[band] = 2 * 9.0 * 64 / 4 / ring
    np.testing.assert_allclose(band_power(wave), expected, atol=1e-9)


def test_a_constant_lies_in_band_zero():
    np.testing.assert_allclose(band_power(np.full((2, 6, 6, 2), 0.5)), [[36 / 4, 0, 0, 0]] * 2, atol=1e-12)


def test_bands_are_distances_in_the_fourier_plane():
    np.testing.assert_array_equal(band_index(4, 4), [[0, 1, 2, 1], [1, 1, 2, 1], [2, 2, 3, 2], [1, 1, 2, 1]])


def test_power_is_that_of_the_pixels_over_all_bands():
    """Parseval: rings weighted by their size add up to the image's energy, where no corner is left out."""
    x, index = normal(6, 6, 1), band_index(6, 6)
    power = np.abs(np.fft.fft2(x[..., 0], norm="ortho")) ** 2
    inside = sum(np.sum(index == k) * band_power(x)[k] for k in range(4))
    np.testing.assert_allclose(inside + power[index > 3].sum(), np.sum(x**2), rtol=1e-12)


def test_forward_power_is_the_mean_over_draws():
    num, x_0 = 4000, np.tanh(normal(8, 8, 1) + np.linspace(-2, 2, 8)[:, None])
    for t in (1, 200, 700):
        level = linear(1000).level(t)
        many = np.broadcast_to(x_0, (num, 8, 8, 1))
        x_t = q_sample(many, noise_like(jax.random.key(t), many), level)
        power = np.asarray(band_power(x_t))
        expected = forward_power(band_power(x_0), level)
        np.testing.assert_array_less(np.abs(power.mean(axis=0) - expected), 5 * power.std(axis=0) / np.sqrt(num))


def test_a_band_settles_when_it_stays_above_half():
    """At once; in the middle; after a first time that did not last; at the end only."""
    times = np.array([100, 80, 60, 40, 20, 0])
    power = np.array(
        [
            [1.0, 0.0, 0.6, 0.0],
            [1.0, 0.1, 0.6, 0.0],
            [0.9, 0.6, 0.1, 0.1],
            [1.0, 0.7, 0.8, 0.2],
            [1.1, 0.9, 0.9, 0.4],
            [1.0, 1.0, 1.0, 1.0],
        ]
    )
    np.testing.assert_array_equal(settling_time(times, power), [100, 60, 40, 0])
    np.testing.assert_array_equal(settling_time(times, 7 * power), [100, 60, 40, 0])


def test_exactly_half_is_settled():
    np.testing.assert_array_equal(settling_time([3, 2, 0], np.array([[0.0], [0.5], [1.0]])), [2])


SIZE = 8
BAND = band_index(SIZE, SIZE)
BAND_VAR = 8.0 * (1.0 + BAND) ** -3.0  # power of each Fourier coefficient, falling with its band


def smooth_images():
    """A Gaussian whose covariance is diagonal in the Fourier basis, with the powers above."""
    impulse = np.fft.ifft2(BAND_VAR).real
    rolled = [np.roll(impulse, (i, j), axis=(0, 1)).ravel() for i in range(SIZE) for j in range(SIZE)]
    return Gaussian(np.zeros((SIZE, SIZE, 1)), np.array(rolled))


def estimate_power(oracle, level):
    """Expected band power of `E[x_0 | x_t]`: the denoiser is linear, so its power adds over the columns of a root."""
    eigenvalues, basis = np.linalg.eigh(oracle.covariance)
    root = basis * jnp.sqrt(level.signal**2 * eigenvalues + level.sigma**2)
    columns = root.T.reshape(-1, SIZE, SIZE, 1)
    return band_power(oracle.denoiser(columns, level).x_0).sum(axis=0)


def test_low_frequencies_settle_first_and_where_their_snr_is_one():
    """The estimate's power over the data's is the Wiener gain `SNR_k / (1 + SNR_k)`, one half at `SNR_k = 1`."""
    schedule, oracle = cosine(200), smooth_images()
    band_var = 8.0 * (1.0 + np.arange(5)) ** -3.0
    times = np.arange(200, 0, -1)
    power = jax.jit(jax.vmap(lambda level: estimate_power(oracle, level)))(schedule.level(times))
    snr = np.exp(schedule.log_snr[times - 1])[:, None] * band_var
    np.testing.assert_allclose(power, band_var * snr / (1 + snr), rtol=1e-9)
    settled = settling_time(np.append(times, 0), np.concatenate([power, band_var[None]]))
    assert np.all(np.diff(settled) < 0)
    for k, t in enumerate(settled):
        assert snr[times == t, k] >= 1 > snr[times == t + 1, k]


def test_a_finite_set_of_smooth_images_settles_from_coarse_to_fine():
    """The same with the posterior average over images, where nothing is linear."""
    schedule, num = cosine(200), 200
    data = FiniteData(np.asarray(smooth_images().sample(jax.random.key(0), 30)))
    x_0, eps = data.sample(jax.random.key(1), num), noise_like(keys(num), jnp.zeros((num, SIZE, SIZE, 1)))
    times = np.arange(200, 0, -4)
    estimate = jax.jit(lambda x_t, level: band_power(data.denoiser(x_t, level).x_0).mean(axis=0))
    powers = [estimate(q_sample(x_0, eps, schedule.level(t)), schedule.level(t)) for t in times]
    settled = settling_time(np.append(times, 0), np.stack([*powers, band_power(x_0).mean(axis=0)]))
    assert settled[0] > settled[1] > settled[2:].max()

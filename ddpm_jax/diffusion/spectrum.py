"""Power spectra: which frequencies of an image have more power than the noise at time t.

The outline of an image is in its low frequencies and the detail in the high ones; natural images have far more power
in the low ones. Noise has the same power at all frequencies, so the forward process hides the detail first, and the
reverse process fixes the outline first: the estimate of x_0 at time t contains a band of frequencies once the
signal-to-noise ratio of the band exceeds one.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array
from ddpm_jax.diffusion.schedules import NoiseLevel


def band_index(height: int, width: int) -> np.ndarray:
    """The band of each Fourier coefficient, `[H, W]` integers: its distance from zero frequency, rounded."""
    rows, columns = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    return np.round(np.hypot(rows[:, None], columns[None, :])).astype(int)


def band_power(x: AnyArray) -> Array:
    """Radially averaged power of images, the mean of `a**2 + b**2` over each ring of frequencies.

    The scale is such that white noise of variance 1 has power 1 in every band.

    Args:
      x: `[..., H, W, C]`.

    Returns:
      `[..., K]`; band k has k periods across the image, from 0 to the Nyquist frequency.
    """
    height, width = x.shape[-3:-1]
    index, last = band_index(height, width), min(height, width) // 2
    power = jnp.mean(jnp.abs(jnp.fft.fft2(x, axes=(-3, -2), norm="ortho")) ** 2, axis=-1)
    rings = np.stack([(index == k) / np.sum(index == k) for k in range(last + 1)])
    return jnp.einsum("...hw,khw->...k", power, jnp.asarray(rings, power.dtype))


def forward_power(power_0: AnyArray, level: NoiseLevel) -> AnyArray:
    """Expected band power of x_t: `alpha_bar_t power_0 + (1 - alpha_bar_t)`, for power_0 `[..., K]` of clean images."""
    return level.signal**2 * power_0 + level.sigma**2


def settling_time(times: np.ndarray | Sequence[float], power: np.ndarray) -> np.ndarray:
    """The time after which each band of the reverse chain stays at or above half of its final power.

    Args:
      times: `[F]` decreasing times.
      power: `[F, K]` band power of the estimate of x_0 at those times; the last row is the final power.

    Returns:
      `[K]` times; a band with a large time settles early in the chain.
    """
    below = power < power[-1] / 2
    first = np.where(below.any(axis=0), len(times) - np.argmax(below[::-1], axis=0), 0)
    return np.asarray(times)[first]

"""Power spectra: which frequencies of an image stand out of the noise at time t.

The outline of a picture is in its low frequencies, the detail in the high ones, and natural pictures have far more
power in the former. Noise has the same power everywhere, so the forward process drowns detail first, and the reverse
chain settles the outline first: the estimate of x_0 at time t holds a band once its signal-to-noise ratio passes one.
"""

import jax.numpy as jnp
import numpy as np


def band_index(height, width):
    """The band of each Fourier coefficient, `[H, W]` integers: its distance from zero frequency, rounded."""
    rows, columns = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    return np.round(np.hypot(rows[:, None], columns[None, :])).astype(int)


def band_power(x):
    """Radially averaged power of images, mean of `a**2 + b**2` over each ring of frequencies.

    Scaled so that white noise of variance 1 has power 1 in every band.

    Args:
      x: `[..., H, W, C]`.

    Returns:
      `[..., K]`, band k at k periods across the image, from 0 to the Nyquist frequency.
    """
    height, width = x.shape[-3:-1]
    index, last = band_index(height, width), min(height, width) // 2
    power = jnp.mean(jnp.abs(jnp.fft.fft2(x, axes=(-3, -2), norm="ortho")) ** 2, axis=-1)
    rings = np.stack([(index == k) / np.sum(index == k) for k in range(last + 1)])
    return jnp.einsum("...hw,khw->...k", power, jnp.asarray(rings, power.dtype))


def forward_power(power_0, level):
    """Expected band power of x_t: `alpha_bar_t power_0 + (1 - alpha_bar_t)`, for power_0 `[..., K]` of clean images."""
    return level.signal**2 * power_0 + level.sigma**2


def settling_time(times, power):
    """When each band of the reverse chain first reaches half of its final power and stays there.

    Args:
      times: `[F]` falling times.
      power: `[F, K]` band power of the estimate of x_0 at those times, the last being final.

    Returns:
      `[K]` times: a large one settles early in the chain.
    """
    below = power < power[-1] / 2
    first = np.where(below.any(axis=0), len(times) - np.argmax(below[::-1], axis=0), 0)
    return np.asarray(times)[first]

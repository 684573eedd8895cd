"""Training losses: one squared error of the noise, times a weight that is a function of log-SNR.

The bound's KL terms are weighted noise errors; Ho et al. 2020 drop the weight (eq. 14, L_simple). Because x_t ties
noise, data and velocity together, regressing x_0 or v is the same error under another weight, so a loss never asks
what the network outputs: `l_simple(weight)` is the whole family. The times t at which it is taken are drawn here too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.arrays import Array, noise_like
from ddpm_jax.gaussian import q_sample

Loss = Callable[
    ..., dict[str, Array]
]  # (denoise, x_0, keys, transition) -> named terms [B], of which "loss" is minimised


def eps_weight(log_snr):
    """Weight 1: the plain noise error, L_simple (Ho et al. 2020, eq. 14)."""
    return jnp.ones_like(log_snr)


def x_0_weight(log_snr):
    """Weight 1 / SNR: the plain squared error of x_0, as `x_0 - x_0' = (sigma / signal) (eps' - eps)`."""
    return jnp.exp(-log_snr)


def v_weight(log_snr):
    """Weight 1 + 1 / SNR: the plain squared error of v, "SNR + 1" on x_0 (Salimans & Ho 2022, section 4)."""
    return 1 + jnp.exp(-log_snr)


def l_simple(weight=eps_weight):
    """The weighted noise error `w(log_snr_t) mean((eps - eps_theta(x_t, t))**2)` (Ho et al. 2020, eq. 14).

    Args:
      weight: function of log-SNR `[B]`.

    Returns:
      A `Loss`: `(denoise, x_0, keys, transition) -> {"loss", "eps_mse"}`, each `[B]`, means over the pixels. x_0
      `[B, H, W, C]` in [-1, 1]; one key an image; the transition's `now` leaves `[B]`.
    """

    def loss(denoise, x_0, keys, transition):
        level = transition.now
        eps = noise_like(keys, x_0)
        error = denoise(q_sample(x_0, eps, level), level).eps - eps
        eps_mse = jnp.mean(error**2, axis=range(1, x_0.ndim))
        return {"loss": weight(level.log_snr) * eps_mse, "eps_mse": eps_mse}

    return loss


def uniform_times(key, batch_size, num_timesteps):
    """Independent integer times `[B]`, uniform on 1..T (Ho et al. 2020, algorithm 1)."""
    return jax.random.randint(key, (batch_size,), 1, num_timesteps + 1)


def antithetic_times(key, batch_size, num_timesteps):
    """Times `[B]` in pairs t and T + 1 - t, each uniform on 1..T (Song et al. 2020's code for DDIM)."""
    half = uniform_times(key, (batch_size + 1) // 2, num_timesteps)
    return jnp.concatenate([half, num_timesteps + 1 - half])[:batch_size]

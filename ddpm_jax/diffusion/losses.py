"""Training losses: one squared error of the noise, times a weight that is a function of log-SNR, and the bound itself.

The bound's KL terms are weighted noise errors; Ho et al. 2020 drop the weight (eq. 14, L_simple). Because x_t ties
noise, data and velocity together, regressing x_0 or v is the same error under another weight, so a loss never asks
what the network outputs: `l_simple(weight)` is the whole family. A variance cannot be learned from a squared error;
`l_hybrid` adds the bound for it. The times at which a loss is taken are drawn in `time_sampling.py`.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array, noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.likelihood import bits_per_dim, term_nats
from ddpm_jax.diffusion.samplers.ancestral import Variance

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


def min_snr_weight(gamma=5.0):
    """Weight `min(SNR, gamma) / SNR`: the error of x_0 weighted by the SNR up to gamma (Hang et al. 2023, eq. 8)."""
    return lambda log_snr: jnp.minimum(1.0, gamma * jnp.exp(-log_snr))


def p2_weight(gamma=1.0, k=1.0):
    """Weight `1 / (k + SNR)**gamma`: less for the steps that only clean up (Choi et al. 2022, eq. 8)."""
    return lambda log_snr: (k + jnp.exp(log_snr)) ** -gamma


def l_simple(weight=eps_weight):
    """The weighted noise error `w(log_snr_t) mean((eps - eps_theta(x_t, t))**2)` (Ho et al. 2020, eq. 14).

    Args:
      weight: function of log-SNR `[B]`.

    Returns:
      A `Loss`: `(denoise, x_0, keys, transition) -> {"loss", "eps_mse"}`, each `[B]`, means over the pixels. x_0
      `[B, H, W, C]` in [-1, 1]; one key an image; leaves of the transition `[B]`.
    """

    def loss(denoise, x_0, keys, transition):
        return _noise_error(denoise, x_0, keys, transition, weight)[0]

    return loss


def l_hybrid(num_timesteps, *, weight=eps_weight, vlb_weight=0.001):
    """`L_simple + lambda L_vlb`, in which the bound moves the variance alone (Nichol & Dhariwal 2021, eq. 16).

    The bound's gradient is stopped at the mean. `L_vlb` is T times a term at a random time, in bits per dimension, as
    in their code: lambda = 0.001 there is a weight of T / 1000 on the term.

    Args:
      num_timesteps: T.
      weight: of the noise error, as for `l_simple`.
      vlb_weight: lambda.

    Returns:
      A `Loss` with the terms "loss", "eps_mse" and "vlb" (L_vlb, bits per dimension).
    """

    def loss(denoise, x_0, keys, transition):
        terms, prediction, x_t = _noise_error(denoise, x_0, keys, transition, weight)
        frozen = prediction._replace(
            x_0=jax.lax.stop_gradient(prediction.x_0), eps=jax.lax.stop_gradient(prediction.eps)
        )
        vlb = _vlb(frozen, x_0, x_t, transition, num_timesteps)
        return {**terms, "loss": terms["loss"] + vlb_weight * vlb, "vlb": vlb}

    return loss


def l_vlb(num_timesteps):
    """The bound alone, L_vlb; best with importance-sampled times (Nichol & Dhariwal 2021, section 3.3).

    Returns:
      A `Loss` with the terms "loss" and "vlb" (the same, T times the term, bits per dimension) and "eps_mse".
    """

    def loss(denoise, x_0, keys, transition):
        terms, prediction, x_t = _noise_error(denoise, x_0, keys, transition, eps_weight)
        vlb = _vlb(prediction, x_0, x_t, transition, num_timesteps)
        return {"loss": vlb, "vlb": vlb, "eps_mse": terms["eps_mse"]}

    return loss


def cross_entropy(log_probs, x_0, keys, transition, *, label):
    """The loss of a classifier of noisy images, `-log p(y | x_t)` (Dhariwal & Nichol 2021, section 4).

    Args:
      log_probs: function `(x_t, level) -> log p(k | x_t)` `[B, K]`, from `as_classifier`.
      x_0: `[B, H, W, C]` in [-1, 1].
      keys: `[B]` keys, one an image.
      transition: leaves `[B]`; its level `now` is that of the noise.
      label: `[B]` classes.

    Returns:
      `{"loss": nats, "accuracy": 0 or 1}`, each `[B]`.
    """
    x_t = q_sample(x_0, noise_like(keys, x_0), transition.now)
    log_prob = log_probs(x_t, transition.now)
    chex.assert_equal_shape_prefix([log_prob, label, x_0], 1)
    chex.assert_rank([log_prob, label], [2, 1])
    right = jnp.argmax(log_prob, axis=-1) == label
    return {
        "loss": -jnp.take_along_axis(log_prob, label[:, None], axis=-1)[:, 0],
        "accuracy": right.astype(x_0.dtype),
    }


def _noise_error(denoise, x_0, keys, transition, weight):
    """The terms of `l_simple`, and the prediction and x_t that they were made of."""
    level = transition.now
    eps = noise_like(keys, x_0)
    x_t = q_sample(x_0, eps, level)
    prediction = denoise(x_t, level)
    chex.assert_equal_shape([prediction.eps, eps])
    eps_mse = jnp.mean((prediction.eps - eps) ** 2, axis=range(1, x_0.ndim))
    return {"loss": weight(level.log_snr) * eps_mse, "eps_mse": eps_mse}, prediction, x_t


def _vlb(prediction, x_0, x_t, transition, num_timesteps):
    """T times each image's term, bits per dimension: its mean over uniform times is the bound but for L_T."""
    nats = term_nats(prediction, x_0, x_t, transition=transition, variance=Variance.LEARNED)
    return num_timesteps * bits_per_dim(nats, x_0.shape[1:])

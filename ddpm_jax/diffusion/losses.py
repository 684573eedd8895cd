"""Training losses: the squared error of the noise times a weight that depends on log-SNR, and the variational bound.

The bound's KL terms are weighted noise errors; Ho et al. 2020 drop the weight (eq. 14, L_simple). Given x_t, noise,
data and velocity determine one another, so the error of x_0 or v is the error of the noise with another weight. A loss
therefore does not depend on what the network outputs: `l_simple(weight)` is the whole family. A variance cannot be
learned from a squared error; `l_hybrid` adds the bound for it. `time_sampling.py` draws the times of a loss.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import chex
import jax
import jax.numpy as jnp
from jax import nn

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real, noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.likelihood import bits_per_dim, term_nats
from ddpm_jax.diffusion.prediction import Denoiser, LogProb, Prediction
from ddpm_jax.diffusion.samplers.ancestral import Variance
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition


class Loss(Protocol):
    """A function `(denoise, x_0, keys, transition) -> {name: [B]}`, of whose terms "loss" is minimised."""

    def __call__(self, denoise: Denoiser, x_0: Array, keys: Array, transition: Transition, /) -> dict[str, Array]:
        """The terms of images `[B, H, W, C]` in [-1, 1], with keys `[B]` and a transition whose leaves are `[B]`."""
        ...


_NO_SIGNAL = -40.0

Weight: TypeAlias = Callable[[Real], Array]
"""A function from log-SNR `[B]` to the weight `[B]` of the noise error."""


def eps_weight(log_snr: Real) -> Array:
    """Weight 1 `[B]`: the plain noise error, L_simple (Ho et al. 2020, eq. 14)."""
    return jnp.ones_like(log_snr)


def x_0_weight(log_snr: Real) -> Array:
    """Weight 1 / SNR `[B]`: the squared error of x_0, as `x_0 - x_0' = (sigma / signal) (eps' - eps)`."""
    return jnp.exp(-log_snr)


def v_weight(log_snr: Real) -> Array:
    """Weight 1 + 1 / SNR `[B]`: the squared error of v, "SNR + 1" on x_0 (Salimans & Ho 2022, section 4)."""
    return 1 + jnp.exp(-log_snr)


def min_snr_weight(gamma: float = 5.0) -> Weight:
    """Weight `min(SNR, gamma) / SNR`: the error of x_0 weighted by the SNR up to gamma (Hang et al. 2023, eq. 8)."""
    return lambda log_snr: jnp.minimum(1.0, gamma * jnp.exp(-log_snr))


def p2_weight(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """Weight `1 / (k + SNR)**gamma`, which is small where little noise is left (Choi et al. 2022, eq. 8)."""
    return lambda log_snr: (k + jnp.exp(log_snr)) ** -gamma


def flow_weight(log_snr: Real) -> Array:
    """Weight `(1 + sigma / signal)**2` `[B]`: the squared error of `eps - x_0`, the velocity of the straight path."""
    return (1 + jnp.exp(-log_snr / 2)) ** 2


def edm_weight(sigma_data: float = 0.5) -> Weight:
    """Weight `1 + 1 / (SNR sigma_data**2)`: EDM's, with which its network's own error has weight 1 at every level.

    Karras et al. 2022, table 1: `(sigma**2 + sigma_data**2) / (sigma sigma_data)**2` on the error of x_0.
    """
    return lambda log_snr: 1 + jnp.exp(-log_snr) / sigma_data**2


def sigmoid_weight(bias: float = -1.0) -> Weight:
    """Weight `sigmoid(bias - log_snr)`, for times uniform in log-SNR (Hoogeboom et al. 2025, SiD2, section 3)."""
    return lambda log_snr: nn.sigmoid(bias - log_snr)


def l_simple(weight: Weight = eps_weight, *, ends_in_noise: bool = False) -> Loss:
    r"""The weighted noise error `w(log_snr_t) mean((eps - eps_theta(x_t, t))**2)`.

    $$ L_{\mathrm{simple}} = \mathbb{E}_{t, x_0, \epsilon}\left[ w_t\,
       \| \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon,\ t) \|^2 \right] $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 14, where the weight is 1 and the norm a sum over the pixels
    instead of their mean.

    Args:
      weight: function from log-SNR `[B]` to the weight `[B]`.
      ends_in_noise: whether the schedule has a level without any signal, where a weight of the noise error may be
        infinite and the error is 0: there the loss is the same multiple of the error of v.

    Returns:
      A `Loss`: `(denoise, x_0, keys, transition) -> {"loss", "eps_mse"}`, each `[B]`, means over the pixels. x_0 is
      `[B, H, W, C]` in [-1, 1]; keys are `[B]`, one per image; the leaves of the transition are `[B]`.
    """

    def loss(denoise: Denoiser, x_0: AnyArray, keys: Array, transition: Transition) -> dict[str, Array]:
        terms, prediction, _ = _noise_error(denoise, x_0, keys, transition, weight)
        if not ends_in_noise:
            return terms
        return {**terms, "loss": _finite(weight, terms["eps_mse"], prediction, x_0, transition.now)}

    return loss


def l_hybrid(num_timesteps: int, *, weight: Weight = eps_weight, vlb_weight: float = 0.001) -> Loss:
    """`L_simple + lambda L_vlb`, in which the bound trains only the variance (Nichol & Dhariwal 2021, eq. 16).

    The bound's gradient is stopped at the mean. `L_vlb` is T times the term at a random time, in bits per dimension, as
    in their code: lambda = 0.001 gives the term a weight of T / 1000.

    Args:
      num_timesteps: T.
      weight: weight of the noise error, as for `l_simple`.
      vlb_weight: lambda, the weight of the bound.

    Returns:
      A `Loss` with the terms "loss", "eps_mse" and "vlb" (L_vlb, bits per dimension).
    """

    def loss(denoise: Denoiser, x_0: AnyArray, keys: Array, transition: Transition) -> dict[str, Array]:
        terms, prediction, x_t = _noise_error(denoise, x_0, keys, transition, weight)
        frozen = prediction._replace(
            x_0=jax.lax.stop_gradient(prediction.x_0), eps=jax.lax.stop_gradient(prediction.eps)
        )
        vlb = _vlb(frozen, x_0, x_t, transition, num_timesteps)
        return {**terms, "loss": terms["loss"] + vlb_weight * vlb, "vlb": vlb}

    return loss


def l_vlb(num_timesteps: int) -> Loss:
    r"""The bound alone, L_vlb, by one of its terms at a random time.

    $$ L_{\mathrm{vlb}} = L_0 + L_1 + \dots + L_{T-1} + L_T $$

    [Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672), eq. 4. L_T has no parameters and is left out. The loss
    trains best with importance-sampled times (section 3.3).

    Args:
      num_timesteps: T.

    Returns:
      A `Loss` with the terms "loss" and "vlb" (both are T times the term, in bits per dimension) and "eps_mse".
    """

    def loss(denoise: Denoiser, x_0: AnyArray, keys: Array, transition: Transition) -> dict[str, Array]:
        terms, prediction, x_t = _noise_error(denoise, x_0, keys, transition, eps_weight)
        vlb = _vlb(prediction, x_0, x_t, transition, num_timesteps)
        return {"loss": vlb, "vlb": vlb, "eps_mse": terms["eps_mse"]}

    return loss


def cross_entropy(
    log_probs: LogProb, x_0: AnyArray, keys: Array, transition: Transition, *, label: AnyArray
) -> dict[str, Array]:
    """The loss of a classifier of noisy images, `-log p(y | x_t)` (Dhariwal & Nichol 2021, section 4).

    Args:
      log_probs: function `(x_t, level) -> log p(k | x_t)` `[B, K]`, from `as_classifier`.
      x_0: `[B, H, W, C]` in [-1, 1].
      keys: `[B]` keys, one per image.
      transition: leaves `[B]`; noise is added up to its level `now`.
      label: `[B]` integer classes.

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


def _noise_error(
    denoise: Denoiser, x_0: AnyArray, keys: Array, transition: Transition, weight: Weight
) -> tuple[dict[str, Array], Prediction, Array]:
    """The terms of `l_simple`, and the prediction and x_t from which they were computed."""
    level = transition.now
    eps = noise_like(keys, x_0)
    x_t = q_sample(x_0, eps, level)
    prediction = denoise(x_t, level)
    chex.assert_equal_shape([prediction.eps, eps])
    eps_mse = jnp.mean((prediction.eps - eps) ** 2, axis=range(1, x_0.ndim))
    return {"loss": weight(level.log_snr) * eps_mse, "eps_mse": eps_mse}, prediction, x_t


def _finite(weight: Weight, eps_mse: Array, prediction: Prediction, x_0: AnyArray, level: NoiseLevel) -> Array:
    """The weighted noise error `[B]`, also at a level without signal: there that of v with `SNR / (1 + SNR)` as factor.

    Both are equal at every level. Below a log-SNR of -40 neither changes any more in float32.
    """
    log_snr = jnp.maximum(level.log_snr, _NO_SIGNAL)
    x_0_mse = jnp.mean((prediction.x_0 - x_0) ** 2, axis=range(1, x_0.ndim))
    error = jnp.where(log_snr > _NO_SIGNAL, eps_mse, nn.sigmoid(log_snr) * (eps_mse + x_0_mse))
    return weight(log_snr) * error


def _vlb(prediction: Prediction, x_0: AnyArray, x_t: Array, transition: Transition, num_timesteps: int) -> Array:
    """T times each image's term `[B]`, in bits per dimension; its mean over uniform times is the bound without L_T."""
    nats = term_nats(prediction, x_0, x_t, transition=transition, variance=Variance.LEARNED)
    return num_timesteps * bits_per_dim(nats, x_0.shape[1:])

"""The variational bound on the likelihood of an image, term by term.

The bound `-log p(x_0) <= L_T + sum_t L_{t-1} + L_0` (Ho et al. 2020, eq. 5) belongs to the ancestral chain: each term
is the KL divergence of two Gaussians, except that L_0 is the log probability of 8-bit values. It is in nats;
`bits_per_dim` converts it. Read next: `ode_likelihood.py`, the exact likelihood of another model.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array, noise_like, pixel_axes
from ddpm_jax.diffusion.gaussian import Cdf, discretized_log_prob_nats, normal_cdf, q_sample
from ddpm_jax.diffusion.prediction import Denoiser, Prediction
from ddpm_jax.diffusion.samplers.ancestral import Variance, p_mean_log_var, step_kl_nats
from ddpm_jax.diffusion.samplers.driver import IndexedTransitions
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition

R = TypeVar("R", Array, np.ndarray, np.floating, float)  # a number gives a number, an array gives an array


def bits_per_dim(nats: R, shape: Sequence[int]) -> R:
    """Nats per image divided by `ln 2` and the number of components of an image of this shape, such as `(H, W, C)`."""
    return nats / (math.prod(shape) * math.log(2))  # pyrefly: ignore[bad-return]  # each of R's types stays what it is


def prior_term_nats(x_0: AnyArray, level: NoiseLevel) -> Array:
    r"""`L_T = KL(q(x_T | x_0), N(0, I))` of each image, `[B]` nats, at the last level of a schedule.

    $$ L_T = \frac12 \sum_i \left( \bar\alpha_T\, x_{0,i}^2 - \bar\alpha_T - \log(1 - \bar\alpha_T) \right) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 5; the sum is over the pixels.
    """
    # With log1p: for good schedules the variance differs from 1 by less than the resolution of float32.
    alpha_bar = level.signal**2
    log_var = jnp.log1p(-alpha_bar)
    kl = 0.5 * (-log_var - alpha_bar + alpha_bar * x_0**2)
    return jnp.sum(kl, axis=pixel_axes(x_0))


def bound_term(
    denoise: Denoiser,
    x_0: AnyArray,
    keys: Array,
    *,
    transition: Transition,
    variance: Variance,
    cdf: Cdf = normal_cdf,
) -> dict[str, Array]:
    r"""One term of the bound: `L_{t-1}` for a transition to s > 0, `L_0` for one to 0.

    $$ L_{t-1} = D_{\mathrm{KL}}\left( q(x_s \mid x_t, x_0)\ \|\ p_\theta(x_s \mid x_t) \right), \qquad
       L_0 = -\log p_\theta(x_0 \mid x_1) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 5, at one x_t that is drawn from q(x_t | x_0).

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      keys: `[B]` keys, one per image.
      transition: the transition t -> s, leaves `[]` or `[B]`.
      variance: `Variance` of the reverse step.
      cdf: as for `discretized_log_prob_nats`.

    Returns:
      `{"nats": [B], "eps_mse": [B]}`, the term and the mean squared error of the noise.
    """
    eps = noise_like(keys, x_0)
    x_t = q_sample(x_0, eps, transition.now)
    prediction = denoise(x_t, transition.now)
    nats = term_nats(prediction, x_0, x_t, transition=transition, variance=variance, cdf=cdf)
    return {"nats": nats, "eps_mse": jnp.mean((prediction.eps - eps) ** 2, axis=pixel_axes(x_0))}


def term_nats(
    prediction: Prediction,
    x_0: AnyArray,
    x_t: AnyArray,
    *,
    transition: Transition,
    variance: Variance,
    cdf: Cdf = normal_cdf,
) -> Array:
    """The term of the bound for a given prediction at x_t, `[B]` nats; the other arguments are as for `bound_term`."""
    kl = jnp.sum(step_kl_nats(prediction, x_0, transition=transition, variance=variance), axis=pixel_axes(x_0))
    decoder = decoder_nats(prediction, x_0, x_t, transition=transition, variance=variance, cdf=cdf)
    return jnp.where(transition.next.t > 0, kl, decoder)


def decoder_nats(
    prediction: Prediction, x_0: AnyArray, x_t: AnyArray, *, transition: Transition, variance: Variance, cdf: Cdf
) -> Array:
    """`L_0 = -log p(x_0 | x_t)` for a given prediction at x_t, `[B]` nats; arguments as for `term_nats`."""
    mean, log_var = p_mean_log_var(prediction, x_t, transition, variance)
    return -jnp.sum(discretized_log_prob_nats(x_0, mean, log_var, cdf), axis=pixel_axes(x_0))


def bound_terms(
    denoise: Denoiser,
    x_0: AnyArray,
    keys: Array,
    *,
    indexed: IndexedTransitions,
    variance: Variance,
    cdf: Cdf = normal_cdf,
) -> dict[str, Array]:
    r"""The terms of the bound for any sequence of transitions, computed one after another in a scan.

    $$ -\log p_\theta(x_0) \le L_T + \sum_{t > 1} L_{t-1} + L_0 $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 5; `bound_term` has the equation of each term.

    Args:
      denoise, x_0, keys, variance, cdf: as for `bound_term`.
      indexed: `(index [n], Transition [n])`; the noise of a transition is keyed by its index.

    Returns:
      `{"nats": [n, B], "eps_mse": [n, B]}`.
    """

    def term(_: None, at: IndexedTransitions) -> tuple[None, dict[str, Array]]:
        index, transition = at
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        return None, bound_term(denoise, x_0, step_keys, transition=transition, variance=variance, cdf=cdf)

    return jax.lax.scan(term, None, indexed)[1]


def density_to_bits_per_dim(log_prob_nats: R, shape: Sequence[int]) -> R:
    """Bits per dimension of 8-bit images, from the log density of dequantised images in [-1, 1] (bins of 1/127.5)."""
    return -bits_per_dim(log_prob_nats, shape) + math.log2(127.5)  # pyrefly: ignore[bad-return]  # as above

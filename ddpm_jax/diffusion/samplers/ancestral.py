"""Ancestral sampling: draw x_s from p(x_s | x_t), which is q(x_s | x_t, x_0) with the network's estimate of x_0.

This is algorithm 2 of Ho et al. 2020, for any pair of times s < t.
"""

import enum

import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, expand_like, noise_like
from ddpm_jax.diffusion.gaussian import q_posterior
from ddpm_jax.diffusion.prediction import Denoiser, Prediction
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition


class Variance(enum.Enum):
    """Variance of the reverse step: `beta_tilde` (exact for data at one point), `beta` (for data N(0, I)), or learned.

    The learned one lies between the two, `exp(v log beta + (1 - v) log beta_tilde)` (Nichol & Dhariwal 2021, eq. 15).
    At s = 0 no noise is drawn, and the variance belongs to the decoder of the bound. There `LARGE` means the small one
    too, as in Ho et al.'s code; the learned one still lies between the two.
    """

    SMALL = "small"
    LARGE = "large"
    LEARNED = "learned"


def p_mean_log_var(
    prediction: Prediction, x_t: AnyArray, transition: Transition, variance: Variance
) -> tuple[Array, Array]:
    r"""Mean and log variance of p(x_s | x_t): those of `q_posterior` at the estimate of x_0.

    $$ \mu_\theta(x_t, t) = \frac{1}{\sqrt{1 - \beta}}
       \left( x_t - \frac{\beta}{\sqrt{1 - \bar\alpha_t}}\, \epsilon_\theta(x_t, t) \right) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 11, is the mean in terms of eps; in terms of x_0, as here,
    it also holds when x_0 was clipped.

    Returns:
      mean `[B, ...]` and log variance, broadcastable against it.

    Raises:
      ValueError: the variance is learned and the network has no head for it.
    """
    mean, small = q_posterior(prediction.x_0, x_t, transition)
    large = expand_like(transition.log_var_large, x_t)
    if variance is Variance.SMALL:
        return mean, small
    if variance is Variance.LARGE:
        return mean, jnp.where(expand_like(transition.next.t, x_t) > 0, large, small)
    if prediction.var_frac is None:
        raise ValueError("a learned variance needs a network with a variance head")
    return mean, prediction.var_frac * large + (1 - prediction.var_frac) * small


def p_sample(denoise: Denoiser, keys: Array, *, x_t: Array, transition: Transition, variance: Variance) -> Array:
    r"""One draw from p(x_s | x_t): `mean + sqrt(variance) z`, with z = 0 at the last step.

    $$ x_s = \mu_\theta(x_t, t) + \sigma_t z, \qquad z \sim \mathcal{N}(0, I) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 2; `Variance` has the choices of sigma_t squared.

    Args:
      denoise: `Denoiser`.
      keys: `[B]` keys, one per image.
      x_t: `[B, ...]`.
      transition: the transition t -> s.
      variance: `Variance`.
    """
    return _drawn(denoise(x_t, transition.now), keys, x_t, transition, variance)


def _drawn(prediction: Prediction, keys: Array, x_t: Array, transition: Transition, variance: Variance) -> Array:
    """The draw of `p_sample` from a prediction."""
    mean, log_var = p_mean_log_var(prediction, x_t, transition, variance)
    noise_scale = jnp.where(expand_like(transition.next.t, x_t) > 0, jnp.exp(0.5 * log_var), 0)
    return mean + noise_scale * noise_like(keys, x_t)


def ancestral(variance: Variance) -> Sampler:
    """The ancestral sampler with the given `Variance`."""

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        prediction = denoise(state.x, transition.now)
        x = _drawn(prediction, keys, state.x, transition, variance)
        return SamplerState(x), StepInfo(prediction.x_0)

    return Sampler(SamplerState, step)

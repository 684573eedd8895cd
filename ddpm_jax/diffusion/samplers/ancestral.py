"""Ancestral sampling: draw x_s from p(x_s | x_t), which is q(x_s | x_t, x_0) with the network's estimate of x_0.

This is algorithm 2 of Ho et al. 2020, for any pair of times s < t.
"""

import enum
import math

import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, expand_like, noise_like
from ddpm_jax.diffusion.gaussian import q_posterior, variance_kl_nats
from ddpm_jax.diffusion.prediction import Denoiser, Prediction
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition

# The standard deviation of a normal variable whose mean size is one grey value, 2 / 255. More noise than that would be
# seen in the last step that draws some, so there the analytic variance is limited to it (Bao et al. 2022a, section 4).
_GREY_VALUE = 2 / 255 * math.sqrt(math.pi / 2)


class Variance(enum.Enum):
    """Variance of the reverse step: `beta_tilde` (exact for data at one point), `beta` (for data N(0, I)), or another.

    The learned one lies between the two, `exp(v log beta + (1 - v) log beta_tilde)` (Nichol & Dhariwal 2021, eq. 15).
    At s = 0 no noise is drawn, and the variance belongs to the decoder of the bound. There `LARGE` means the small one
    too, as in Ho et al.'s code; the learned one still lies between the two.

    The analytic one is the best that is equal for all pixels (Bao et al. 2022a, theorem 1; 2022b, for a mean that is
    not exact): `beta_tilde + w**2 mse`, where w is the factor of x_0 in the mean of q(x_s | x_t, x_0) and mse the
    expected error of the estimate of x_0 (`prediction.with_error`). With it every KL term is half the log of its ratio
    to `beta_tilde`, the least of all such variances.
    """

    SMALL = "small"
    LARGE = "large"
    LEARNED = "learned"
    ANALYTIC = "analytic"


def p_mean_log_var(
    prediction: Prediction, x_t: AnyArray, transition: Transition, variance: Variance
) -> tuple[Array, Array]:
    r"""Mean and log variance of p(x_s | x_t): those of `q_posterior` at the estimate of x_0.

    $$ \mu_\theta(x_t, t) = \frac{1}{\sqrt{1 - \beta}}
       \left( x_t - \frac{\beta}{\sqrt{1 - \bar\alpha_t}}\, \epsilon_\theta(x_t, t) \right) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 11, is the mean in terms of eps; in terms of x_0, as here,
    it also holds when x_0 was clipped. A prediction with a `mean_gradient` shifts the mean by the variance times it.

    Returns:
      mean `[B, ...]` and log variance, broadcastable against it.

    Raises:
      ValueError: the prediction lacks what the variance needs: a learned one, or the error of x_0.
    """
    mean, small = q_posterior(prediction.x_0, x_t, transition)
    log_var = small + _log_var_excess(prediction, transition, variance)
    if prediction.mean_gradient is not None:
        mean += jnp.exp(log_var) * prediction.mean_gradient
    return mean, log_var


def step_kl_nats(prediction: Prediction, x_0: AnyArray, *, transition: Transition, variance: Variance) -> Array:
    r"""`KL(q(x_s | x_t, x_0), p(x_s | x_t))` of each component `[B, ...]`, in nats, for s > 0.

    $$ D_{\mathrm{KL}} = \frac12 \left( \log\frac{\sigma_t^2}{\tilde\beta} + \frac{\tilde\beta}{\sigma_t^2} - 1
       + \frac{\bar\alpha_s\, \beta^2}{(1 - \bar\alpha_t)^2}\, \frac{(x_0 - \hat x_0)^2}{\sigma_t^2} \right) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 8 in terms of x_0; sigma_t squared is the variance of p. The
    parts of both means that depend on x_t are equal and are left out, and so is what both log variances have in
    common: near t = T float32 would lose both differences, which are a ten-thousandth and a millionth of the numbers.

    Args:
      prediction: the `Prediction` at x_t.
      x_0: `[B, ...]`, the clean images.
      transition: the transition t -> s.
      variance: `Variance` of p.

    Raises:
      ValueError: as for `p_mean_log_var`.
    """
    excess = _log_var_excess(prediction, transition, variance)
    log_var = expand_like(transition.log_var_small, x_0) + excess
    difference = expand_like(_x_0_factor(transition), x_0) * (prediction.x_0 - x_0)
    if prediction.mean_gradient is not None:
        difference += jnp.exp(log_var) * prediction.mean_gradient
    return variance_kl_nats(excess) + 0.5 * difference**2 * jnp.exp(-log_var)


def _log_var_excess(prediction: Prediction, transition: Transition, variance: Variance) -> Array:
    """The log variance of p(x_s | x_t) above the small one, broadcastable against images."""
    difference = expand_like(transition.log_var_range, prediction.x_0)
    if variance is Variance.SMALL:
        return jnp.zeros_like(difference)
    if variance is Variance.LARGE:
        return jnp.where(expand_like(transition.next.t, prediction.x_0) > 0, difference, 0)
    if variance is Variance.ANALYTIC:
        return _analytic_excess(prediction, transition)
    if prediction.var_frac is None:
        raise ValueError("a learned variance needs a network with a variance head")
    return prediction.var_frac * difference


def _analytic_excess(prediction: Prediction, transition: Transition) -> Array:
    """The log of the analytic variance above the small one; at s = 0, where only the decoder has one, it is the mse."""
    if prediction.x_0_mse is None:
        raise ValueError("the analytic variance needs the expected error of x_0: see with_error")
    mse, small = jnp.asarray(prediction.x_0_mse), transition.log_var_small
    above = jnp.log1p(_x_0_factor(transition) ** 2 * mse * jnp.exp(-small))
    return expand_like(jnp.where(transition.next.t > 0, above, jnp.log(mse) - small), prediction.x_0)


def _x_0_factor(transition: Transition) -> Array:
    """`sqrt(alpha_bar_s) beta / (1 - alpha_bar_t)`, the factor of x_0 in the mean of q(x_s | x_t, x_0)."""
    return jnp.asarray(transition.next.signal * transition.beta / transition.now.sigma**2)


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
    if variance is Variance.ANALYTIC:
        noise_scale = jnp.where(transition.left == 2, jnp.minimum(noise_scale, _GREY_VALUE), noise_scale)
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

"""The Gaussians of the forward process: the closed form q(x_t | x_0) and the posterior q(x_s | x_t, x_0).

Because every noising step is Gaussian, any number of them together is Gaussian (`q_sample`), and so is one step
backwards given the clean image (`q_posterior`, by Bayes' rule). Training uses the first; sampling uses the second, with
the network's estimate in place of x_0. Read next: `prediction.py`.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real, expand_like
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition

Cdf: TypeAlias = Callable[[Array], Array]
"""The cumulative distribution function of N(0, 1), or an approximation F of it with `F(-x) = 1 - F(x)`."""

# The Taylor series of 2 (g + exp(-g) - 1) / g**2, from the highest power to the lowest.
_EXCESS = [2 * (-1) ** k / math.factorial(k + 2) for k in reversed(range(10))]


def q_sample(x_0: AnyArray, eps: AnyArray, level: NoiseLevel) -> Array:
    r"""`x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`: a draw from q(x_t | x_0).

    $$ q(x_t \mid x_0) = \mathcal{N}(x_t;\ \sqrt{\bar\alpha_t}\, x_0,\ (1 - \bar\alpha_t) I) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 4.

    Args:
      x_0, eps: `[B, ...]`, clean image in [-1, 1] and standard normal noise.
      level: `NoiseLevel` with leaves `[]` or `[B]`.
    """
    chex.assert_equal_shape([x_0, eps])
    return expand_like(level.signal, x_0) * x_0 + expand_like(level.sigma, x_0) * eps


def q_step(x_s: AnyArray, eps: AnyArray, transition: Transition) -> Array:
    r"""`x_t = sqrt(1 - beta) x_s + sqrt(beta) eps`: a draw from q(x_t | x_s).

    $$ q(x_t \mid x_s) = \mathcal{N}(x_t;\ \sqrt{1 - \beta}\, x_s,\ \beta I), \qquad
       \beta = 1 - \bar\alpha_t / \bar\alpha_s $$

    Between neighbouring times this is one noising step ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 2); for
    any s < t it is all the steps between them at once.

    Args:
      x_s, eps: `[B, ...]`, image at time s and standard normal noise.
      transition: the transition between t and s, leaves `[]` or `[B]`.
    """
    chex.assert_equal_shape([x_s, eps])
    beta = expand_like(transition.beta, x_s)
    return jnp.sqrt(1 - beta) * x_s + jnp.sqrt(beta) * eps


def q_posterior(x_0: AnyArray, x_t: AnyArray, transition: Transition) -> tuple[Array, Array]:
    r"""Mean and log variance of q(x_s | x_t, x_0) for any s < t, by Bayes' rule.

    $$ q(x_s \mid x_t, x_0) = \mathcal{N}(x_s;\ \tilde\mu,\ \tilde\beta I) $$

    $$ \tilde\mu = \frac{\sqrt{\bar\alpha_s}\, \beta}{1 - \bar\alpha_t} x_0
       + \frac{\sqrt{1 - \beta}\, (1 - \bar\alpha_s)}{1 - \bar\alpha_t} x_t, \qquad
       \tilde\beta = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \beta $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 6 and 7, where s = t - 1.

    Args:
      x_0, x_t: `[B, ...]`.
      transition: the transition t -> s, leaves `[]` or `[B]`.

    Returns:
      mean `[B, ...]` and log variance, broadcastable against it.
    """
    chex.assert_equal_shape([x_0, x_t])
    now, next = transition.now, transition.next
    var_now = now.sigma**2
    mean = (
        expand_like(next.signal * transition.beta / var_now, x_0) * x_0
        + expand_like(now.signal / next.signal * next.sigma**2 / var_now, x_t) * x_t
    )
    return mean, expand_like(transition.log_var_small, x_t)


def normal_kl_nats(mean_1: Real, log_var_1: Real, mean_2: Real, log_var_2: Real) -> Array:
    """`KL(N(mean_1, var_1), N(mean_2, var_2))` of each component `[...]`, in nats; arguments broadcast."""
    ratio = jnp.exp(log_var_1 - log_var_2)
    return 0.5 * (jnp.add(log_var_2 - log_var_1, ratio) + (mean_1 - mean_2) ** 2 * jnp.exp(-log_var_2) - 1)


def variance_kl_nats(excess: Real) -> Array:
    """`KL(N(m, v), N(m, exp(g) v))` of each component, `(g + exp(-g) - 1) / 2` nats, exact also where g is tiny.

    Args:
      excess: g `[...]`, the log variance of the second Gaussian minus that of the first.
    """
    excess = jnp.asarray(excess)
    series = excess**2 * jnp.polyval(jnp.asarray(_EXCESS, excess.dtype), excess) / 2
    return 0.5 * jnp.where(jnp.abs(excess) < 0.1, series, excess + jnp.expm1(-excess))


def normal_cdf(x: Array) -> Array:
    """The cumulative distribution function of N(0, 1), `[...]`."""
    return jax.scipy.stats.norm.cdf(x)


def tanh_cdf(x: Array) -> Array:
    r"""The approximation of `normal_cdf` in the code of Ho et al. and guided diffusion, `[...]`; at most 2e-4 apart.

    $$ \Phi(x) \approx \tfrac12 \left( 1 + \tanh\left( \sqrt{2 / \pi}\, (x + 0.044715\, x^3) \right) \right) $$
    """
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretized_log_prob_nats(x_0: AnyArray, mean: Real, log_var: Real, cdf: Cdf = normal_cdf) -> Array:
    """Log probability of each 8-bit value under a Gaussian, the decoder of the bound (Ho et al. 2020, eq. 13).

    The Gaussian is integrated over the bin of the value, from `x_0 - 1/255` to `x_0 + 1/255`; the first and the last
    bin are unbounded. Probabilities below 1e-12 are raised to 1e-12.

    Args:
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      mean, log_var: mean and log variance of the Gaussian, broadcastable against x_0.
      cdf: `normal_cdf`, or `tanh_cdf` to compare with published bits per dimension.

    Returns:
      `[B, ...]`, in nats.
    """
    inverse_std = jnp.exp(-0.5 * log_var)
    upper, lower = ((x_0 - mean + side / 255) * inverse_std for side in (1, -1))
    # A bin lies in two tails; the subtraction is more accurate in the thinner one.
    flip = lower > 0
    upper, lower = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    below, above = x_0 < -1 + 1 / 255, x_0 > 1 - 1 / 255
    first, last = jnp.where(flip, above, below), jnp.where(flip, below, above)
    top = jnp.where(last, 1.0, cdf(upper))
    return jnp.log(jnp.maximum(top - jnp.where(first, 0.0, cdf(lower)), 1e-12))

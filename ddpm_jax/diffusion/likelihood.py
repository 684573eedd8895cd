"""The likelihood of an image under a model: the variational bound term by term, and the exact likelihood by the ODE.

The bound `-log p(x_0) <= L_T + sum_t L_{t-1} + L_0` (Ho et al. 2020, eq. 5) belongs to the ancestral chain: each term
is the KL divergence of two Gaussians, except that L_0 is the log probability of 8-bit values. The probability-flow ODE
defines a different model. It transports the density along with the image, so that its log density follows from the
integrated trace of its Jacobian (Song et al. 2021, eq. 39). Both are in nats; `bits_per_dim` converts them.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array, noise_like
from ddpm_jax.diffusion.gaussian import Cdf, discretized_log_prob_nats, normal_cdf, q_sample
from ddpm_jax.diffusion.prediction import Denoiser, Prediction, velocity
from ddpm_jax.diffusion.samplers.ancestral import Variance, p_mean_log_var, step_kl_nats
from ddpm_jax.diffusion.samplers.driver import IndexedTransitions
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition

VectorField: TypeAlias = Callable[[Array], Array]
"""A function from images `[B, ...]` to an array of the same shape, which treats each image independently."""

Trace: TypeAlias = Callable[[VectorField, Array], tuple[Array, Array]]
"""A function `(function, x) -> (function(x) [B, ...], trace of each image's Jacobian [B])`."""

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
    return jnp.sum(kl, axis=_pixels(x_0))


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
    return {"nats": nats, "eps_mse": jnp.mean((prediction.eps - eps) ** 2, axis=_pixels(x_0))}


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
    kl = jnp.sum(step_kl_nats(prediction, x_0, transition=transition, variance=variance), axis=_pixels(x_0))
    mean, log_var = p_mean_log_var(prediction, x_t, transition, variance)
    decoder = -jnp.sum(discretized_log_prob_nats(x_0, mean, log_var, cdf), axis=_pixels(x_0))
    return jnp.where(transition.next.t > 0, kl, decoder)


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


def exact_trace(function: VectorField, x: Array) -> tuple[Array, Array]:
    """The value of a function at x `[B, ...]` and the trace `[B]` of its Jacobian, by one product per component."""
    basis = jnp.eye(math.prod(x.shape[1:]), dtype=x.dtype).reshape(-1, 1, *x.shape[1:])

    def diagonal(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, x.shape)
        return jnp.sum(jax.jvp(function, (x,), (tangent,))[1] * tangent, axis=_pixels(x))

    return function(x), jnp.sum(jax.lax.map(diagonal, basis), axis=0)


def hutchinson_trace(probes: Array) -> Trace:
    """The estimate `v^T J v` of the trace for probes v `[B, ...]` of mean 0, variance 1, used like `exact_trace`."""

    def trace(function: VectorField, x: Array) -> tuple[Array, Array]:
        value, product = jax.jvp(function, (x,), (probes,))
        return value, jnp.sum(product * probes, axis=_pixels(x))

    return trace


def ode_log_prob_nats(
    denoise: Denoiser, x_0: AnyArray, *, transitions: Transition, trace: Trace = exact_trace
) -> Array:
    """Log density of images under the probability-flow ODE, `[B]` nats (Song et al. 2021, eq. 39).

    With the angle `phi = arctan(sigma / signal)` the flow is `dx / dphi = v`, the velocity, and `log p` falls along
    it by the trace of `dv / dx`; in this form the equation is not stiff at either end. Heun's method integrates both
    from the first level to the last, where p is N(0, I).

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, dequantised images in [-1, 1]; the flow starts from `signal x_0` at the first level, so the
        result is the log density of `x_t / signal` there.
      transitions: transitions towards more noise, from `NoiseSchedule.encoding`.
      trace: `exact_trace` or `hutchinson_trace(probes)`.
    """

    def derivatives(x: Array, level: NoiseLevel) -> tuple[Array, Array]:
        return trace(lambda x: velocity(*denoise(x, level)[:2], level), x)

    def step(state: tuple[Array, Array], transition: Transition) -> tuple[tuple[Array, Array], None]:
        x, integral = state
        now, next = transition.now, transition.next
        step = jnp.arctan2(next.sigma, next.signal) - jnp.arctan2(now.sigma, now.signal)
        v_now, trace_now = derivatives(x, now)
        v_next, trace_next = derivatives(x + step * v_now, next)
        return (x + step * (v_now + v_next) / 2, integral + step * (trace_now + trace_next) / 2), None

    signal = jnp.asarray(transitions.now.signal, x_0.dtype)[0]
    start = (signal * x_0, jnp.zeros(len(x_0), x_0.dtype))
    (x_T, integral), _ = jax.lax.scan(step, start, transitions)
    dims = math.prod(x_0.shape[1:])
    log_normal = -0.5 * jnp.sum(x_T**2, axis=_pixels(x_0)) - dims / 2 * math.log(2 * math.pi)
    return log_normal + integral + dims * jnp.log(signal)


def ode_bound_nats(
    denoise: Denoiser,
    x_0: AnyArray,
    keys: Array,
    *,
    encoding: Transition,
    last: Transition,
    variance: Variance,
    trace: Trace = exact_trace,
) -> Array:
    """Bound on `-log P(x_0)` of 8-bit images, by the ODE except for the last step, which is ancestral, `[B]` nats.

    `E_q[log q(x_1 | x_0) - log p(x_1) - log p(x_0 | x_1)]` with p(x_1) by the ODE and the decoder L_0 of the ancestral
    chain: this is the bound with its terms other than L_0 replaced. The noise of x_1 serves as dequantisation (Zheng et
    al. 2023, section 4.2). The model was trained with noise of this width, but not with uniform noise of the width of
    one grey value.

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      keys: `[B]` keys, one per image.
      encoding: transitions towards more noise that start at the level of x_1, from `NoiseSchedule.encoding`.
      last: the transition from the level of x_1 to 0.
      variance: `Variance` of the last transition.
      trace: as for `ode_log_prob_nats`.
    """
    eps, level = noise_like(keys, x_0), last.now
    x_1 = q_sample(x_0, eps, level)
    ratio = level.sigma / level.signal
    log_q = jnp.sum(-0.5 * eps**2 - 0.5 * math.log(2 * math.pi) - jnp.log(ratio), axis=_pixels(x_0))
    log_p = ode_log_prob_nats(denoise, x_0 + ratio * eps, transitions=encoding, trace=trace)
    return log_q - log_p + term_nats(denoise(x_1, level), x_0, x_1, transition=last, variance=variance)


def density_to_bits_per_dim(log_prob_nats: R, shape: Sequence[int]) -> R:
    """Bits per dimension of 8-bit images, from the log density of dequantised images in [-1, 1] (bins of 1/127.5)."""
    return -bits_per_dim(log_prob_nats, shape) + math.log2(127.5)  # pyrefly: ignore[bad-return]  # as above


def _pixels(x: AnyArray) -> tuple[int, ...]:
    """All axes except the first."""
    return tuple(range(1, x.ndim))

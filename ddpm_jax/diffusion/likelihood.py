"""How probable a model finds an image: the bound term by term, and the exact likelihood through the ODE.

The bound `-log p(x_0) <= L_T + sum_t L_{t-1} + L_0` (Ho et al. 2020, eq. 5) belongs to the ancestral chain: each term
is the KL divergence of two Gaussians, the last the log probability of 8-bit values. The probability-flow ODE moves
the density along with the image, so that integrating the trace of its Jacobian gives the likelihood of its own model,
which is another one (Song et al. 2021, eq. 39). Both in nats; `bits_per_dim` converts.
"""

import math

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import discretized_log_prob_nats, normal_kl_nats, q_posterior, q_sample
from ddpm_jax.diffusion.prediction import velocity
from ddpm_jax.diffusion.samplers.ancestral import p_mean_log_var


def bits_per_dim(nats, shape):
    """Nats an image over `ln 2` times the number of its components; `shape` is the image's, such as `(H, W, C)`."""
    return nats / (math.prod(shape) * math.log(2))


def prior_term_nats(x_0, level):
    """`L_T = KL(q(x_T | x_0), N(0, I))` of each image, `[B]` nats, at the last level of a schedule."""
    # By expm1 and log1p: for good schedules the variance differs from 1 by less than float32 can show.
    alpha_bar = level.signal**2
    log_var = jnp.log1p(-alpha_bar)
    kl = 0.5 * (-log_var - alpha_bar + alpha_bar * x_0**2)
    return jnp.sum(kl, axis=_pixels(x_0))


def bound_term(denoise, x_0, keys, *, transition, variance):
    """One term of the bound: `L_{t-1}` for a move to s > 0, `L_0` for the move to 0 (Ho et al. 2020, eq. 5).

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      keys: `[B]` keys, one an image.
      transition: the move, leaves `[]` or `[B]`.
      variance: `Variance` of the reverse step.

    Returns:
      `{"nats": [B], the term; "eps_mse": [B], mean squared error of the noise}`.
    """
    eps = noise_like(keys, x_0)
    x_t = q_sample(x_0, eps, transition.now)
    prediction = denoise(x_t, transition.now)
    nats = term_nats(prediction, x_0, x_t, transition=transition, variance=variance)
    return {"nats": nats, "eps_mse": jnp.mean((prediction.eps - eps) ** 2, axis=_pixels(x_0))}


def term_nats(prediction, x_0, x_t, *, transition, variance):
    """The bound's term of a given prediction at x_t, `[B]` nats; arguments as for `bound_term`."""
    mean, log_var = p_mean_log_var(prediction, x_t, transition, variance)
    true_mean, true_log_var = q_posterior(x_0, x_t, transition)
    kl = jnp.sum(normal_kl_nats(true_mean, true_log_var, mean, log_var), axis=_pixels(x_0))
    decoder = -jnp.sum(discretized_log_prob_nats(x_0, mean, log_var), axis=_pixels(x_0))
    return jnp.where(transition.next.t > 0, kl, decoder)


def bound_terms(denoise, x_0, keys, *, moves, variance):
    """The terms of any run of moves, one after another in a scan.

    Args:
      denoise, x_0, keys, variance: as for `bound_term`.
      moves: `(index [n], Transition [n])`; noise is keyed by the index.

    Returns:
      `{"nats": [n, B], "eps_mse": [n, B]}`.
    """

    def term(_, indexed):
        index, transition = indexed
        move_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        return None, bound_term(denoise, x_0, move_keys, transition=transition, variance=variance)

    return jax.lax.scan(term, None, moves)[1]


def exact_trace(function, x):
    """Value of a function of x `[B, ...]` and the trace of each image's Jacobian, `[B]`, by one product a component."""
    basis = jnp.eye(math.prod(x.shape[1:]), dtype=x.dtype).reshape(-1, 1, *x.shape[1:])

    def diagonal(direction):
        tangent = jnp.broadcast_to(direction, x.shape)
        return jnp.sum(jax.jvp(function, (x,), (tangent,))[1] * tangent, axis=_pixels(x))

    return function(x), jnp.sum(jax.lax.map(diagonal, basis), axis=0)


def hutchinson_trace(probes):
    """The estimate `v^T J v` of the trace, for probes v `[B, ...]` of mean 0, variance 1; used as `exact_trace` is."""

    def trace(function, x):
        value, product = jax.jvp(function, (x,), (probes,))
        return value, jnp.sum(product * probes, axis=_pixels(x))

    return trace


def ode_log_prob_nats(denoise, x_0, *, transitions, trace=exact_trace):
    """Log density of images under the probability-flow ODE, `[B]` nats (Song et al. 2021, eq. 39).

    With the angle `phi = arctan(sigma / signal)` the flow is `dx / dphi = v`, the velocity, and `log p` falls along
    it by the trace of `dv / dx`; nothing in it is stiff at either end. Heun's method integrates both from the first
    level to the last, where p is N(0, I).

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, dequantised images in [-1, 1]; `signal x_0` is taken as x of the first level, so this is the
        density of `x_t / signal` there.
      transitions: upward moves, from `NoiseSchedule.encoding`.
      trace: `exact_trace` or `hutchinson_trace(probes)`.
    """

    def slope(x, level):
        return trace(lambda x: velocity(*denoise(x, level)[:2], level), x)

    def move(state, transition):
        x, integral = state
        now, next = transition.now, transition.next
        step = jnp.arctan2(next.sigma, next.signal) - jnp.arctan2(now.sigma, now.signal)
        v_now, trace_now = slope(x, now)
        v_next, trace_next = slope(x + step * v_now, next)
        return (x + step * (v_now + v_next) / 2, integral + step * (trace_now + trace_next) / 2), None

    signal = jnp.asarray(transitions.now.signal, x_0.dtype)[0]
    start = (signal * x_0, jnp.zeros(len(x_0), x_0.dtype))
    (x_T, integral), _ = jax.lax.scan(move, start, transitions)
    dims = math.prod(x_0.shape[1:])
    log_normal = -0.5 * jnp.sum(x_T**2, axis=_pixels(x_0)) - dims / 2 * math.log(2 * math.pi)
    return log_normal + integral + dims * jnp.log(signal)


def ode_bound_nats(denoise, x_0, keys, *, encoding, last, variance, trace=exact_trace):
    """Bound on `-log P(x_0)` of 8-bit images whose chain takes its last move alone and the ODE all before, `[B]` nats.

    `E_q[log q(x_1 | x_0) - log p(x_1) - log p(x_0 | x_1)]` with p(x_1) by the ODE and the decoder L_0 of the ancestral
    chain: the bound with its terms above L_0 replaced. The noise of x_1 serves as dequantisation (Zheng et al. 2023,
    section 4.2), as wide as the model was trained with; uniform noise of one grey value's width is not.

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      keys: `[B]` keys, one an image.
      encoding: upward moves from the level of x_1, from `NoiseSchedule.encoding`.
      last: the move from there to 0.
      variance: `Variance` of the last move.
      trace: as for `ode_log_prob_nats`.
    """
    eps, level = noise_like(keys, x_0), last.now
    x_1 = q_sample(x_0, eps, level)
    ratio = level.sigma / level.signal
    log_q = jnp.sum(-0.5 * eps**2 - 0.5 * math.log(2 * math.pi) - jnp.log(ratio), axis=_pixels(x_0))
    log_p = ode_log_prob_nats(denoise, x_0 + ratio * eps, transitions=encoding, trace=trace)
    return log_q - log_p + term_nats(denoise(x_1, level), x_0, x_1, transition=last, variance=variance)


def density_to_bits_per_dim(log_prob_nats, shape):
    """Bits per dimension of 8-bit images from the log density of dequantised ones in [-1, 1] (bins of 1/127.5)."""
    return -bits_per_dim(log_prob_nats, shape) + math.log2(127.5)


def _pixels(x):
    """All axes but the first."""
    return tuple(range(1, x.ndim))

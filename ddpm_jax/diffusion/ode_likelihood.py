r"""The exact likelihood of an image by the probability-flow ODE, with the errors of its solver and of its trace.

The ODE transports the density along with the image, so that its log density follows from the integrated trace of its
Jacobian (Song et al. 2021, eq. 39). It defines another model than the ancestral chain, whose bound is in
`likelihood.py`. With the angle `phi = arctan(sigma / signal)` and `u = log(tan(phi / 2))` the flow is

$$ \frac{dx}{du} = \sigma\, v(x), \qquad
   \log p(x_0) = \log p(x_T) + \int \mathrm{tr}\, \frac{\partial}{\partial x} \frac{dx}{du}\, du, $$

with the velocity v of `prediction.py`; u is like `log(sigma)` for little noise and like phi for much, so that the flow
is stiff at neither end. The trace costs as many products with the Jacobian
as an image has components, and the flow one evaluation per stage. So a solver of fifth order takes a few long steps,
and the trace is computed only at their ends, where a quadrature rule of high order integrates it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array, pixel_axes
from ddpm_jax.diffusion.likelihood import term_nats
from ddpm_jax.diffusion.prediction import Denoiser, velocity
from ddpm_jax.diffusion.samplers.ancestral import Variance
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition

VectorField: TypeAlias = Callable[[Array], Array]
"""A function from images `[B, ...]` to an array of the same shape, which treats each image independently."""

Trace: TypeAlias = Callable[[VectorField, Array], tuple[Array, Array]]
"""A function `(function, x) -> (function(x) [B, ...], K estimates of the trace of each image's Jacobian [K, B])`."""

# The method of Dormand & Prince 1980 (RK5(4)7M): the times of its stages, their coefficients, the weights of the fifth
# order, and the difference between these and those of the fourth order, which has the slope at the end as well.
_TIMES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1])
_STAGES = np.array([
    [1 / 5, 0, 0, 0, 0, 0],
    [3 / 40, 9 / 40, 0, 0, 0, 0],
    [44 / 45, -56 / 15, 32 / 9, 0, 0, 0],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0],
])  # fmt: skip
_FIFTH = np.array([35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84])
_DIFFERENCE = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
_GREGORY = (1 / 12, 1 / 24, 19 / 720, 3 / 160)  # corrections of the trapezoidal rule by differences at its ends
_AT_ONCE = 512  # images times directions whose products with the Jacobian are computed together


class OdeSteps(NamedTuple):
    """The N steps in which the flow is solved, towards more noise, after one of length 0 at the first level.

    Attributes:
      levels: the `NoiseLevel`s of the stages of each step, of which the last is its end: leaves `[N + 1, 6]`.
      lengths: of the steps in u, `[N + 1]`.
      weights: of the traces at the ends of the steps in their integral, `[N + 1]`.
      half_weights: of the same rule on every second end, and 0 on the others, `[N + 1]`.
    """

    levels: NoiseLevel
    lengths: AnyArray
    weights: AnyArray
    half_weights: AnyArray

    @property
    def num_steps(self) -> int:
        """N, the number of steps."""
        return np.shape(self.lengths)[0] - 1


class Estimate(NamedTuple):
    """A number by the ODE for each image, `[B]` nats, with its errors, `[B]` nats.

    Attributes:
      nats: the number.
      solver_error: the size of the error of the solver: how much the integral of the trace changes if only every second
        step counts, and the differences between the fourth and the fifth order in x, each times the score.
      trace_error: the standard error of the estimated trace; 0 for the exact one.
    """

    nats: Array
    solver_error: Array
    trace_error: Array


def ode_steps(schedule: NoiseSchedule, num_steps: int, *, first: float = 1.0) -> OdeSteps:
    """Divides the way from a level to the last level of a schedule into steps of equal length in u, in float64.

    Args:
      schedule: `NoiseSchedule`.
      num_steps: N, even.
      first: the time of the first level, in [1, T).

    Raises:
      ValueError: the number of steps is not an even number above 0, or the first level is not before the last.
    """
    if num_steps < 2 or num_steps % 2:
        raise ValueError(f"the number of steps must be even, because every second one tells the error, got {num_steps}")
    if not 1 <= first < schedule.num_timesteps:
        raise ValueError(f"the first time must lie in [1, {schedule.num_timesteps}), got {first}")
    ends = schedule.level([first, schedule.num_timesteps])
    begin, end = np.log(np.tan(np.arctan2(ends.sigma, ends.signal) / 2))
    length = (end - begin) / num_steps
    places = begin + length * np.concatenate([np.zeros((1, 6)), np.arange(num_steps)[:, None] + _TIMES])
    angles = 2 * np.arctan(np.exp(np.minimum(places, end)))
    levels = schedule.level(schedule.time(-2 * np.log(np.tan(angles))))
    half_weights = np.zeros(num_steps + 1)
    half_weights[::2] = 2 * length * gregory_weights(num_steps // 2)
    return OdeSteps(levels, np.repeat([0, length], [1, num_steps]), length * gregory_weights(num_steps), half_weights)


def gregory_weights(num_steps: int) -> np.ndarray:
    """The weights `[N + 1]` of Gregory's rule for N steps of length 1: of order 6, for N < 4 of order N + 2 or less.

    The trapezoidal rule is exact up to rounding where a function is smooth and flat at both ends; backward and forward
    differences correct it for the ends.
    """
    weights = np.ones(num_steps + 1)
    weights[[0, -1]] = 0.5
    for order, factor in enumerate(_GREGORY[:num_steps], 1):
        differences = np.array([(-1) ** j * math.comb(order, j) for j in range(order + 1)])
        weights[: order + 1] -= factor * differences
        weights[::-1][: order + 1] -= factor * differences
    return weights


def exact_trace(function: VectorField, x: Array) -> tuple[Array, Array]:
    """The value of a function at x `[B, ...]` and the trace `[1, B]` of its Jacobian, by one product per component.

    The function is linearised once; the products are computed a few directions at a time, which bounds the memory.
    """
    value, products = _products(function, x, jnp.eye(math.prod(x.shape[1:]), dtype=x.dtype)[:, None])
    return value, jnp.sum(products, axis=0)[None]


def hutchinson_trace(probes: Array) -> Trace:
    """K estimates `v^T J v` of the trace, for K probes v of each image `[K, B, ...]` of mean 0 and variance 1."""
    return lambda function, x: _products(function, x, probes.reshape(*probes.shape[:2], -1))


def _products(function: VectorField, x: Array, directions: Array) -> tuple[Array, Array]:
    """The value of a function at x `[B, ...]`, and `v^T J v` `[K, B]` for directions v `[K, B or 1, D]`."""
    value, jvp = jax.linearize(function, x)

    def product(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, (len(x), direction.shape[-1])).reshape(x.shape)
        return jnp.sum(jvp(tangent) * tangent, axis=pixel_axes(x))

    return value, jax.lax.map(product, directions, batch_size=min(len(directions), max(1, _AT_ONCE // len(x))))


def ode_log_prob(denoise: Denoiser, x_0: AnyArray, *, steps: OdeSteps, trace: Trace = exact_trace) -> Estimate:
    """Log density of images under the probability-flow ODE, `[B]` nats (Song et al. 2021, eq. 39).

    The flow is solved from the first level to the last, where p is N(0, I), by the method of Dormand & Prince 1980; the
    trace is integrated by `gregory_weights`. An error e in x changes the log density by e times the score, to first
    order, so that the errors of the steps in x can be added.

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, dequantised images in [-1, 1]; the flow starts from `signal x_0` at the first level, so the
        result is the log density of `x_t / signal` there.
      steps: `OdeSteps` of the schedule.
      trace: `exact_trace` or `hutchinson_trace(probes)`.
    """
    steps = jax.tree.map(lambda leaf: jnp.asarray(leaf, x_0.dtype), steps)

    def slope_at(level: NoiseLevel, x: Array) -> Array:
        return jnp.asarray(level.sigma) * velocity(*denoise(x, level)[:2], level)

    def step(state: tuple[Array, Array], at: tuple[NoiseLevel, Array]) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        (x, slope), (levels, length) = state, at

        def stage(slopes: Array, at: tuple[Array, Array, NoiseLevel]) -> tuple[Array, None]:
            place, row, level = at
            return slopes.at[place].set(slope_at(level, x + length * _combined(row, slopes))), None

        slopes = jnp.zeros((len(_TIMES), *x.shape), x.dtype).at[0].set(slope)
        later = jax.tree.map(lambda leaf: leaf[1:], levels)
        slopes, _ = jax.lax.scan(stage, slopes, (jnp.arange(1, len(_TIMES)), jnp.asarray(_STAGES, x.dtype), later))
        x = x + length * _combined(_FIFTH, slopes)
        end = jax.tree.map(lambda leaf: leaf[-1], levels)
        slope, estimates = trace(partial(slope_at, end), x)
        error = length * (_combined(_DIFFERENCE[:-1], slopes) + _DIFFERENCE[-1] * slope)
        score = -(end.signal * slope / end.sigma**2 + x)  # -eps / sigma, of eps = signal v + sigma x
        return (x, slope), (estimates, jnp.abs(jnp.sum(error * score, axis=pixel_axes(x))))

    signal = jnp.asarray(steps.levels.signal)[0, 0]
    start = (signal * x_0, jnp.zeros_like(x_0))
    (x_T, _), (traces, errors) = jax.lax.scan(step, start, (steps.levels, jnp.asarray(steps.lengths)))
    dims = math.prod(x_0.shape[1:])
    log_normal = -0.5 * jnp.sum(x_T**2, axis=pixel_axes(x_0)) - dims / 2 * math.log(2 * math.pi)
    integrals = _combined(steps.weights, traces)  # [K, B]
    change = jnp.mean(integrals - _combined(steps.half_weights, traces), axis=0)
    nats = log_normal + jnp.mean(integrals, axis=0) + dims * jnp.log(signal)
    return Estimate(nats, jnp.abs(change) + jnp.sum(errors, axis=0), _standard_error(integrals))


def ode_bound(
    denoise: Denoiser, x_0: AnyArray, eps: AnyArray, log_prob: Estimate, *, last: Transition, variance: Variance
) -> Estimate:
    """Bound on `-log P(x_0)` of 8-bit images, by the ODE except for the last step, which is ancestral, `[B]` nats.

    `E_q[log q(x_1 | x_0) - log p(x_1) - log p(x_0 | x_1)]` with p(x_1) by the ODE and the decoder L_0 of the ancestral
    chain: this is the bound with its terms other than L_0 replaced. The noise of x_1 serves as dequantisation (Zheng et
    al. 2023, section 4.2). The model was trained with noise of this width, but not with uniform noise of the width of
    one grey value.

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      eps: `[B, ...]`, the noise of x_1.
      log_prob: the log density of `dequantised(x_0, eps, last)`, by `ode_log_prob` with steps from the level of x_1.
      last: the transition from the level of x_1 to 0.
      variance: `Variance` of the last transition.
    """
    level = last.now
    ratio, x_1 = level.sigma / level.signal, jnp.asarray(level.signal) * dequantised(x_0, eps, last)
    log_q = jnp.sum(-0.5 * eps**2 - 0.5 * math.log(2 * math.pi) - jnp.log(ratio), axis=pixel_axes(x_0))
    decoder = term_nats(denoise(x_1, level), x_0, x_1, transition=last, variance=variance)
    return log_prob._replace(nats=log_q - log_prob.nats + decoder)


def dequantised(x_0: AnyArray, eps: AnyArray, last: Transition) -> Array:
    """`x_1 / signal`, `[B, ...]`: 8-bit images with the noise of x_1, from which the last transition starts."""
    return jnp.asarray(x_0 + last.now.sigma / last.now.signal * eps)


def _combined(weights: AnyArray, rows: Array) -> Array:
    """The sum over the first axis of rows `[n, ...]` with weights `[n]`, of the dtype of the rows."""
    return jnp.tensordot(jnp.asarray(weights, rows.dtype), rows, axes=1)


def _standard_error(values: Array) -> Array:
    """The standard error `[B]` of the mean of K values `[K, B]`; 0 for one value."""
    if len(values) == 1:
        return jnp.zeros_like(values[0])
    return jnp.std(values, axis=0, ddof=1) / math.sqrt(len(values))

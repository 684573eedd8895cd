r"""Multistep solvers: one evaluation per step, and an order that comes from the predictions of earlier steps.

Along the probability-flow ODE (`ode.py`) a change of variables leaves nothing but the network to integrate. With
`lambda = log(signal / sigma)`, from t to an earlier time s, both of these are exact:

$$ x_s = \frac{\sigma_s}{\sigma_t} x_t + \sqrt{\bar\alpha_s} \int_{\lambda_t}^{\lambda_s} e^{\lambda - \lambda_s}\,
   \hat x_0\, d\lambda, \qquad
   x_s = \frac{\sqrt{\bar\alpha_s}}{\sqrt{\bar\alpha_t}} x_t - \sigma_s \int_{\lambda_t}^{\lambda_s}
   e^{\lambda_s - \lambda}\, \epsilon_\theta\, d\lambda $$

([Lu et al. 2022](https://arxiv.org/abs/2206.00927), eq. 3.4; [Lu et al. 2022](https://arxiv.org/abs/2211.01095),
eq. 8). If the prediction were constant, either gives a step of DDIM. A multistep solver of order k puts a polynomial
through the present and k - 1 earlier predictions instead. A `Form` says what is interpolated, along what, and with
which density it is integrated. The integral is computed by Gauss-Legendre quadrature, which is exact to rounding and
subtracts no numbers that are almost equal.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import Array, Real, expand_like, noise_like
from ddpm_jax.diffusion.prediction import Denoiser, Prediction
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition

_POINTS, _WEIGHTS = ((1 + np.polynomial.legendre.leggauss(10)[0]) / 2, np.polynomial.legendre.leggauss(10)[1] / 2)


class Form(NamedTuple):
    """What a multistep solver integrates.

    Attributes:
      value: the part of a `Prediction` that is interpolated, `[B, ...]`.
      position: the variable along which it is, of a `NoiseLevel`.
      density: `(level at s, offset, length) -> density` of the integral at an offset from the position of t, on the way
        of that length to the position of s.
      midpoint: whether one earlier prediction alone is weighted as if the density were constant, as the papers do.
      finite: whether the position at t = 0 is finite. If not, the last step is of first order, the one before it of at
        most second order, and so on.
    """

    value: Callable[[Prediction], Array]
    position: Callable[[NoiseLevel], Real]
    density: Callable[[NoiseLevel, Real, Real], Real]
    midpoint: bool = False
    finite: bool = False


class Past(NamedTuple):
    """The memory of a multistep solver: earlier values `[B, ...]`, newest first, and where they were predicted, `[B]`.

    Attributes:
      values: what the `Form` interpolates.
      positions: the positions of these values.
      count: how many of them there are by now, `[B]`.
    """

    values: tuple[Array, ...]
    positions: tuple[Array, ...]
    count: Array

    def remembering(self, value: Array, position: Real) -> "Past":
        """The memory after another prediction, a value `[B, ...]` at a position `[]`.

        One without any signal is not remembered, because no polynomial reaches its position, which is infinite.
        """
        position = jnp.full_like(self.count, position)
        size = len(self.values)
        count = jnp.where(jnp.isfinite(position), jnp.minimum(self.count + 1, size), 0)
        return Past((value, *self.values)[:size], (position, *self.positions)[:size], count)


def used(form: Form, past: Past, size: int, left: Real) -> Past:
    """The newest of these values, at most `size`, and fewer if few steps are `left` to the clean image."""
    most = jnp.inf if form.finite else left - 1
    return Past(past.values[:size], past.positions[:size], jnp.minimum(past.count, jnp.minimum(size, most)))


def no_past(x_T: Array, size: int) -> Past:
    """The memory of a chain from x_T `[B, ...]` before its first step, for so many values."""
    zeros = jnp.zeros(len(x_T), x_T.dtype)
    return Past((jnp.zeros_like(x_T),) * size, (zeros,) * size, zeros)


def half_log_snr(level: NoiseLevel) -> Real:
    """`lambda = log(signal / sigma)`."""
    return level.log_snr / 2


def of_x_0(eta: float | Array = 0.0) -> Form:
    """The form of DPM-Solver++: x_0 as a polynomial in lambda, in the SDE of the given amount of noise."""

    def density(level: NoiseLevel, offset: Real, length: Real) -> Real:
        return level.signal * (1 + eta) * jnp.exp((1 + eta) * (offset - length))

    return Form(lambda prediction: prediction.x_0, half_log_snr, density, midpoint=True)


OF_EPS = Form(
    value=lambda prediction: prediction.eps,
    position=half_log_snr,
    density=lambda level, offset, length: -level.sigma * jnp.exp(length - offset),
)
"""The form of DEIS: eps as a polynomial in lambda (Zhang & Chen 2023, log rho)."""

ALONG_SIGMA = Form(
    value=lambda prediction: prediction.eps,
    position=lambda level: level.sigma / level.signal,
    density=lambda level, offset, length: level.signal,
    finite=True,
)
"""The form of the Adams-Bashforth methods: eps as a polynomial in sigma / signal, the variable of `ode_derivative`."""


def correction(form: Form, value: Array, others: Past, *, begin: Real, next: NoiseLevel) -> Array:
    """What the polynomial adds to a step of DDIM: `int density (p - p(0))`, `[B, ...]`.

    Args:
      form: `Form`.
      value: the value at t, where the step begins.
      others: further values, of which the first `count` are used.
      begin: the position of t.
      next: the level at s, where the step ends.
    """
    length = form.position(next) - begin
    length = jnp.where(jnp.isfinite(length), length, 1)  # of a step that is of first order
    known = [others.count > i for i in range(len(others.values))]
    offsets = [jnp.where(known[i], others.positions[i] - begin, 1.0 + i) for i in range(len(others.values))]
    points = length * _POINTS.reshape(-1, 1).astype(value.dtype)
    density = form.density(next, points, length)
    if form.midpoint:
        mean = jnp.sum(density * _WEIGHTS[:, None], axis=0)
        density = jnp.where(others.count == 1, mean, density)
    added = jnp.zeros_like(value)
    for i, other in enumerate(others.values):
        basis = points / offsets[i] * _vanishing(points, offsets, known, besides=i)
        weight = length * jnp.sum(density * basis * _WEIGHTS[:, None], axis=0)
        added += expand_like(jnp.where(known[i], weight, 0).astype(value.dtype), value) * (other - value)
    return added


def _vanishing(points: Array, offsets: Sequence[Array], known: Sequence[Array], *, besides: int) -> Array:
    """The polynomial that is 1 at one offset and 0 at all others that are known, at the points."""
    product = jnp.ones_like(points)
    for j, offset in enumerate(offsets):
        if j != besides:
            product = product * jnp.where(known[j], (points - offset) / (offsets[besides] - offset), 1)
    return product


def multistep(form: Form, order: int, *, eta: float | Array = 0.0) -> Sampler:
    """The solver of this order by a polynomial through the last predictions; the first steps have lower orders.

    Args:
      form: `Form`.
      order: at least 1, which is DDIM.
      eta: the amount of noise of the SDE whose form that is; 0 for the ODE.
    """

    def init(x_T: Array) -> SamplerState:
        return SamplerState(x_T, no_past(x_T, order - 1))

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        prediction = denoise(state.x, transition.now)
        value, past = form.value(prediction), state.memory
        position = form.position(transition.now)
        others = used(form, past, order - 1, transition.left)
        x = ddim_part(prediction, transition, eta) + correction(
            form, value, others, begin=position, next=transition.next
        )
        if not isinstance(eta, float) or eta:
            x = x + expand_like(transition.next.sigma * jnp.sqrt(1 - _kept(transition, eta) ** 2), x) * noise_like(
                keys, x
            )
        return SamplerState(x, past.remembering(value, position)), StepInfo(prediction.x_0)

    return Sampler(init, step)


def ddim_part(prediction: Prediction, transition: Transition, eta: float | Array = 0.0) -> Array:
    """`signal_s x_0 + sigma_s exp(-eta h) eps`, `[B, ...]`: a step with a constant prediction, before the noise."""
    next, x_0, eps = transition.next, prediction.x_0, prediction.eps
    return expand_like(next.signal, x_0) * x_0 + expand_like(next.sigma * _kept(transition, eta), eps) * eps


def _kept(transition: Transition, eta: float | Array) -> Real:
    """`exp(-eta h)`: the part of the old noise that is left, where h is the length of the step in lambda."""
    now, next = transition.now, transition.next
    return (next.sigma * now.signal / (now.sigma * next.signal)) ** eta


def dpm_solver_pp_2m(eta: float | Array = 0.0) -> Sampler:
    r"""DPM-Solver++(2M): second order by the previous x_0; with eta > 0, SDE-DPM-Solver++(2M).

    $$ x_s = \frac{\sigma_s}{\sigma_t} x_t - \sqrt{\bar\alpha_s}\, (e^{-h_i} - 1)\, D_i, \qquad
       D_i = \left( 1 + \frac{h_i}{2 h_{i-1}} \right) \hat x_0^{(i)} - \frac{h_i}{2 h_{i-1}}\, \hat x_0^{(i-1)} $$

    [Lu et al. 2022](https://arxiv.org/abs/2211.01095), algorithm 2, where h_i is the length of step i in lambda.

    Args:
      eta: the amount of noise, from 0 (the ODE) to 1 (the SDE of the forward process, reversed); may be traced.
    """
    return multistep(of_x_0(eta), 2, eta=eta)


def dpm_solver_pp_3m(eta: float | Array = 0.0) -> Sampler:
    """DPM-Solver++(3M): third order by the two previous estimates of x_0; eta as for `dpm_solver_pp_2m`."""
    return multistep(of_x_0(eta), 3, eta=eta)


def deis(order: int = 3) -> Sampler:
    """DEIS: an exponential integrator of eps along lambda, of order 1 to 4 (Zhang & Chen 2023, table 1, log rho)."""
    return multistep(OF_EPS, order)


def adams_bashforth(order: int = 3) -> Sampler:
    """Adams-Bashforth on `d x_bar / ds = eps`, of order 1 to 4 (Zhang & Chen 2023, rho AB; Liu et al. 2022's core)."""
    return multistep(ALONG_SIGMA, order)

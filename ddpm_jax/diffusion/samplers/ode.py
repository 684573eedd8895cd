"""The probability-flow ODE and its higher-order solvers.

The Fokker-Planck equation of the forward process is also that of a deterministic flow. With `x_bar = x / signal` and
`s = sigma / signal` the flow is `d x_bar / ds = eps(x, t)` (Song et al. 2020, eq. 14; Karras et al. 2022, eq. 1): along
it the noise level falls without any random step. DDIM with eta = 0 is Euler's method, and `multistep.py` has solvers of
higher order that look back; Heun's method, here, looks ahead.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real, expand_like
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition


def ode_coordinates(x: AnyArray, level: NoiseLevel) -> tuple[Array, Real]:
    """`(x_bar, s)`: the image divided by the signal, `[B, ...]`, and the noise divided by the signal."""
    return jnp.divide(x, expand_like(level.signal, x)), level.sigma / level.signal


def ode_derivative(denoise: Denoiser, x_bar: Array, level: NoiseLevel) -> Array:
    """The derivative `d x_bar / ds = eps(x, t)` at a level, for x_bar `[B, ...]`."""
    return denoise(x_bar * expand_like(level.signal, x_bar), level).eps


def heun() -> Sampler:
    r"""Heun's method of second order, two evaluations per step and one for the last.

    $$ d_i = \epsilon_\theta(\bar x_i, s_i), \qquad \tilde x_{i+1} = \bar x_i + (s_{i+1} - s_i)\, d_i $$

    $$ \bar x_{i+1} = \bar x_i + \frac{s_{i+1} - s_i}{2} ( d_i + \epsilon_\theta(\tilde x_{i+1}, s_{i+1}) ) $$

    [Karras et al. 2022](https://arxiv.org/abs/2206.00364), algorithm 1, in the coordinates of `ode_coordinates`.

    The last step, to s = 0 where the noise of the image is not defined, is a step of Euler's method, and so is a first
    step from noise without any signal, where s is infinite.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        del keys
        now, next = transition.now, transition.next
        x_0, eps = (prediction := denoise(state.x, now)).x_0, prediction.eps
        euler = expand_like(next.signal, x_0) * x_0 + expand_like(next.sigma, eps) * eps  # times the signal, as below
        length = next.sigma - next.signal * now.sigma / now.signal
        both = (next.t > 0) & (now.signal > 0)

        def corrected() -> Array:
            return euler + expand_like(length / 2, eps) * (denoise(euler, next).eps - eps)

        x = jax.lax.cond(both, corrected, lambda: euler)
        return SamplerState(x), StepInfo(x_0, jnp.where(both, 2, 1))

    return Sampler(SamplerState, step)

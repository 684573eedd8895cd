"""DDIM: samplers for the same network whose randomness is set by one number, eta (Song et al. 2020).

With eta = 1 it is ancestral sampling with the small variance. With eta = 0 it is deterministic: Euler's method on the
probability-flow ODE (`ode.py`). The ODE can also be run towards more noise, which encodes an image
(`NoiseSchedule.encoding`): `ddim_inverse` finds the noise from which DDIM decodes the same image.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array, expand_like, noise_like
from ddpm_jax.diffusion.prediction import Denoiser, Prediction
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.samplers.ode import ode_coordinates, ode_derivative
from ddpm_jax.diffusion.schedules import Transition


def ddim_step(denoise: Denoiser, keys: Array, *, x_t: Array, transition: Transition, eta: float | Array) -> Array:
    r"""`x_s = signal_s x_0 + sqrt(sigma_s**2 - var) eps + sqrt(var) z`, `var = eta**2 beta_tilde`: a step of DDIM.

    $$ x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma_t^2}\ \epsilon_\theta(x_t, t)
       + \sigma_t z, \qquad \sigma_t^2 = \eta^2\, \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \beta $$

    [Song et al. 2020](https://arxiv.org/abs/2010.02502), eq. 12 and 16.

    Args:
      denoise: `Denoiser`.
      keys: `[B]` keys, one per image.
      x_t: `[B, ...]`.
      transition: the transition t -> s.
      eta: number in [0, 1]; may be traced, so that a change of it needs no new compilation.
    """
    return _stepped(denoise(x_t, transition.now), keys, x_t, transition, eta)


def _stepped(prediction: Prediction, keys: Array, x_t: Array, transition: Transition, eta: float | Array) -> Array:
    """The step of `ddim_step` from a prediction."""
    now, next = transition.now, transition.next
    var = eta**2 * (next.sigma / now.sigma) ** 2 * transition.beta
    direction = jnp.sqrt(jnp.maximum(next.sigma**2 - var, 0))
    mean = expand_like(next.signal, x_t) * prediction.x_0 + expand_like(direction, x_t) * prediction.eps
    return mean + expand_like(jnp.sqrt(var), x_t) * noise_like(keys, x_t)


def ddim(eta: float | Array = 0.0) -> Sampler:
    """The DDIM sampler with the given amount of noise, from 0 (deterministic) to 1 (ancestral)."""

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        prediction = denoise(state.x, transition.now)
        return SamplerState(_stepped(prediction, keys, state.x, transition, eta)), StepInfo(prediction.x_0)

    return Sampler(SamplerState, step)


def ddim_inverse(num_iterations: int = 3) -> Sampler:
    """The inverse of `ddim(0)`, for the transitions of `NoiseSchedule.encoding` (Pan et al. 2023).

    Towards more noise, DDIM itself would predict the noise at the wrong end of each step. This sampler solves the
    equation of a DDIM step, `x_bar_t = x_bar_s + (s_t - s_s) eps(x_t, t)`, for x_t by fixed-point iteration.

    Args:
      num_iterations: iterations per step, each with one evaluation of the denoiser, after one for the first estimate;
        each reduces the error by a factor proportional to the length of the step.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        del keys
        now, next = transition.now, transition.next
        x_bar, s = ode_coordinates(state.x, now)
        _, s_next = ode_coordinates(state.x, next)
        end = lambda derivative: x_bar + (s_next - s) * derivative
        substitute = lambda _, derivative: ode_derivative(denoise, end(derivative), next)
        first = ode_derivative(denoise, x_bar, now)
        derivative = jax.lax.fori_loop(0, num_iterations, substitute, first)
        info = StepInfo(x_bar - s * first, 1 + num_iterations)
        return SamplerState(expand_like(next.signal, x_bar) * end(derivative)), info

    return Sampler(SamplerState, step)

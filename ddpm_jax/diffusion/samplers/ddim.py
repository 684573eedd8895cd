"""DDIM: from all randomness to none by one number, with the same network (Song et al. 2020).

With eta = 1 it is ancestral sampling with the small variance, with eta = 0 it is deterministic: Euler's method on the
probability-flow ODE (`ode.py`), which can also be run upwards to encode an image (`NoiseSchedule.encoding`):
`ddim_inverse` finds the noise that DDIM decodes to that very image.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import expand_like, noise_like
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState
from ddpm_jax.diffusion.samplers.ode import ode_coordinates, ode_slope


def ddim_step(denoise, keys, *, x_t, transition, eta):
    """`signal_s x_0 + sqrt(sigma_s**2 - var) eps + sqrt(var) z`, `var = eta**2 beta_tilde` (Song et al. 2020, eq. 12).

    Args:
      denoise: `Denoiser`.
      keys: `[B]` keys, one an image.
      x_t: `[B, ...]`.
      transition: the move t -> s.
      eta: number in [0, 1]; may be traced, so that changing it compiles nothing.
    """
    now, next = transition.now, transition.next
    prediction = denoise(x_t, now)
    var = eta**2 * (next.sigma / now.sigma) ** 2 * transition.beta
    direction = jnp.sqrt(jnp.maximum(next.sigma**2 - var, 0))
    mean = expand_like(next.signal, x_t) * prediction.x_0 + expand_like(direction, x_t) * prediction.eps
    return mean + expand_like(jnp.sqrt(var), x_t) * noise_like(keys, x_t)


def ddim(eta=0.0):
    """The DDIM sampler with the given share of noise, 0 (deterministic) to 1 (ancestral)."""

    def step(denoise, keys, state, transition):
        return SamplerState(ddim_step(denoise, keys, x_t=state.x, transition=transition, eta=eta))

    return Sampler(SamplerState, step)


def ddim_inverse(num_iterations=3):
    """The inverse of `ddim(0)`, for the moves upwards of `NoiseSchedule.encoding` (Pan et al. 2023).

    Run upwards, DDIM itself takes the noise from the wrong end of each move. This solves a move of DDIM read backwards,
    `x_bar_t = x_bar_s + (s_t - s_s) eps(x_t, t)`, for x_t by repeated substitution.

    Args:
      num_iterations: substitutions a move, each an evaluation beside the first guess; the error falls by the length of
        the move with each.
    """

    def step(denoise, keys, state, transition):
        del keys
        now, next = transition.now, transition.next
        x_bar, s = ode_coordinates(state.x, now)
        _, s_next = ode_coordinates(state.x, next)
        end = lambda slope: x_bar + (s_next - s) * slope
        substitute = lambda _, slope: ode_slope(denoise, end(slope), next)
        slope = jax.lax.fori_loop(0, num_iterations, substitute, ode_slope(denoise, x_bar, now))
        return SamplerState(expand_like(next.signal, x_bar) * end(slope))

    return Sampler(SamplerState, step)

"""UniPC: a multistep solver whose every step is corrected by the evaluation that the next one needs anyway."""

from typing import NamedTuple

import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array, expand_like
from ddpm_jax.diffusion.prediction import Denoiser, Prediction, eps_from_x_0
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.samplers.multistep import Past, correction, ddim_part, no_past, of_x_0, used
from ddpm_jax.diffusion.schedules import Transition


class Corrected(NamedTuple):
    """The memory of UniPC: what the last step was without its polynomial, `[B, ...]`, and the `Past`."""

    ddim: Array
    past: Past


def unipc(order: int = 3) -> Sampler:
    """UniPC-p: the predictor of order p by p estimates of x_0, and a corrector that raises the order by one.

    [Zhao et al. 2023](https://arxiv.org/abs/2302.04867), algorithms 5 and 7 with B_2 for the estimates of x_0. The
    corrector puts the polynomial of the last step through the new estimate too. That changes x_t after the network was
    evaluated there, and the estimate stays, so a step has one evaluation.

    Args:
      order: p, at least 1.
    """
    form = of_x_0()

    def init(x_T: Array) -> SamplerState:
        return SamplerState(x_T, Corrected(x_T, no_past(x_T, order)))

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        del keys
        now, next = transition.now, transition.next
        x_0, position = denoise(state.x, now).x_0, form.position(now)
        ddim, past = state.memory
        new = jnp.full_like(past.count, position)
        with_new = past._replace(values=(x_0, *past.values[1:]), positions=(new, *past.positions[1:]))
        others = used(form, with_new, order, transition.left + 2)
        corrected = ddim + correction(form, past.values[0], others, begin=past.positions[0], next=now)
        x_t = jnp.where(expand_like(past.count > 0, ddim), corrected, state.x)
        part = ddim_part(Prediction(x_0, eps_from_x_0(x_0, x_t, now)), transition)
        x_s = part + correction(form, x_0, used(form, past, order - 1, transition.left), begin=position, next=next)
        return SamplerState(x_s, Corrected(part, past.remembering(x_0, position))), StepInfo(x_0)

    return Sampler(init, step)

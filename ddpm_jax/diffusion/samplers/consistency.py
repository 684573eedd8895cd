"""The sampler of consistency models: each step estimates the clean image and adds noise again, for the next level."""

from ddpm_jax.diffusion.arrays import Array, noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition


def consistency() -> Sampler:
    r"""Multistep consistency sampling, for any number of steps.

    $$ x_s = \sqrt{\bar\alpha_s}\, \hat x_0(x_t, t) + \sqrt{1 - \bar\alpha_s}\, z, \qquad z \sim \mathcal{N}(0, I) $$

    [Song et al. 2023](https://arxiv.org/abs/2303.01469), algorithm 1. If the estimate is the end of the ODE's
    trajectory through x_t, each step draws from the distribution of x_s, for any levels. An estimate of the mean, as a
    denoiser's is, loses variance.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        x_0 = denoise(state.x, transition.now).x_0
        return SamplerState(q_sample(x_0, noise_like(keys, x_0), transition.next)), StepInfo(x_0)

    return Sampler(SamplerState, step)

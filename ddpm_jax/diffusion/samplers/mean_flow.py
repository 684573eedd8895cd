"""The sampler of MeanFlow: each step is one evaluation of a network that is told where the step ends."""

from ddpm_jax.diffusion.arrays import Array
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition


def mean_flow() -> Sampler:
    r"""Sampling by average velocities, for any number of steps.

    $$ y_r = y_s - (s - r)\, u(y_s, s, r) $$

    [Geng et al. 2025](https://arxiv.org/abs/2505.13447), eq. 12, on the straight path. In terms of what a network
    predicts it is `x_s = signal_s x_0 + sigma_s eps`, as in DDIM, of a denoiser whose level says where the step ends
    (`NoiseLevel.until`). If the network has learned the average velocity, any step ends on the ODE's trajectory.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        prediction = denoise(state.x, transition.now._replace(until=transition.next.t))
        return SamplerState(q_sample(prediction.x_0, prediction.eps, transition.next)), StepInfo(prediction.x_0)

    return Sampler(SamplerState, step)

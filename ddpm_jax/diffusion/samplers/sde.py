"""The reverse-time SDE of Anderson, by the Euler-Maruyama method (Song et al. 2021, eq. 6).

In continuous time the forward process is `dx = -b(t)/2 x dt + sqrt(b(t)) dw`, and the reverse process is
`dx = [-b/2 x - b score] dt + sqrt(b) dw`. Over one transition the integral of b is `-log(1 - beta)`. Ancestral sampling
with many steps is the same process: the two differ by O(beta**2) per step.
"""

import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array, expand_like, noise_like
from ddpm_jax.diffusion.prediction import Denoiser, score
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition


def euler_maruyama() -> Sampler:
    """The sampler `x_s = x_t + b/2 x_t + b score(x_t) + sqrt(b) z`, with z = 0 at the last step."""

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        x, b = state.x, expand_like(-jnp.log1p(-transition.beta), state.x)
        prediction = denoise(x, transition.now)
        drift = x / 2 + score(prediction, transition.now)
        noise_scale = jnp.where(transition.next.t > 0, jnp.sqrt(b), 0)
        return SamplerState(x + b * drift + noise_scale * noise_like(keys, x)), StepInfo(prediction.x_0)

    return Sampler(SamplerState, step)

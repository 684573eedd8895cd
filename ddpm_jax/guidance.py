"""Changes to what a denoiser says: functions from `Denoiser` to `Denoiser`, which compose and suit every sampler.

Read next: `samplers/`.
"""

import jax.numpy as jnp

from ddpm_jax.prediction import eps_from_x_0


def clip_x_0(denoise, low=-1.0, high=1.0):
    """Clips the estimate of x_0 to the range of images and recomputes the noise, so that the two still explain x_t.

    Published samplers and bits per dimension all do this; training does not (Ho et al. 2020's code, `clip_denoised`).
    """

    def clipped(x_t, level):
        prediction = denoise(x_t, level)
        x_0 = jnp.clip(prediction.x_0, low, high)
        return prediction._replace(x_0=x_0, eps=eps_from_x_0(x_0, x_t, level))

    return clipped

"""Denoising diffusion in JAX: the equations as pure functions, a U-Net, and the jobs that train it and sample from it.

Read in this order: `schedule.py` (how much noise), `gaussian.py` (the forward process and its posterior),
`prediction.py` (what a network says), `losses.py` (what it learns from), `samplers/` (the way back), `models/` (the
network), `step.py` (the train step). The jobs are `training.py` and `sampling.py`; `build.py` makes objects of a
configuration.
"""

from ddpm_jax.arrays import image_keys, noise_like, stream
from ddpm_jax.errors import UserError
from ddpm_jax.gaussian import q_posterior, q_sample, q_step
from ddpm_jax.guidance import clip_x_0
from ddpm_jax.losses import antithetic_times, eps_weight, l_simple, uniform_times, v_weight, x_0_weight
from ddpm_jax.models import Architecture, UNet
from ddpm_jax.prediction import (
    Denoiser,
    Prediction,
    Target,
    as_denoiser,
    eps_from_score,
    eps_from_x_0,
    score,
    x_0_from_eps,
)
from ddpm_jax.samplers import Sampler, SamplerState, Variance, advance, ancestral, p_mean_log_var, p_sample, sample
from ddpm_jax.schedule import (
    NoiseLevel,
    NoiseSchedule,
    Transition,
    cosine,
    from_betas,
    linear,
    quadratic,
    sigmoid,
    uniform_timesteps,
)

"""The digits by flow matching: the velocity of the straight path, at logit-normal times (Esser et al. 2024).

Command: python train.py --config=configs/digits_flow.py, then
  python sample.py --workdir=runs/digits_flow
Hardware: 2 CPU cores, about 5 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits by flow matching."""
    config = experiment("digits")
    config.name = "digits_flow"
    config.diffusion.schedule = "straight"
    config.diffusion.target = "flow"
    config.model.time_scale = 0.02  # smooth in time, as its derivative has to be for digits_mean_flow
    config.loss.weight = "flow"
    config.loss.times = "logit_normal"
    config.sample.sampler = "ddim"  # Euler's method on the straight path
    config.sample.num_steps = 100
    config.sample.clip_x_0 = False
    return config

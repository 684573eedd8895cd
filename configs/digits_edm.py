"""The digits with EDM's preconditioning, weight, times and sampler (Karras et al. 2022).

Command: python train.py --config=configs/digits_edm.py, then
  python sample.py --workdir=runs/digits_edm
Hardware: 2 CPU cores, about 5 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits with EDM's objective."""
    config = experiment("digits")
    config.name = "digits_edm"
    config.diffusion.schedule = "log_snr"  # sigma from 0.002 to 80
    config.diffusion.log_snr_first = 12.43
    config.diffusion.log_snr_last = -8.76
    config.diffusion.target = "edm"
    config.diffusion.sigma_data = 0.75
    config.loss.weight = "edm"
    config.loss.times = "log_normal"
    config.sample.sampler = "heun"
    config.sample.grid = "karras"
    config.sample.num_steps = 18
    config.sample.clip_x_0 = False
    return config

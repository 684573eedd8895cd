"""The digits with a learned variance, cosine schedule and hybrid loss (Nichol & Dhariwal 2021), for bits per dimension.

Command: python train.py --config=configs/digits_improved.py, then
  python evaluate.py --workdir=runs/digits_improved --metrics=bpd,nll
Hardware: 2 CPU cores, about 5 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits with a learned variance."""
    config = experiment("digits")
    config.name = "digits_improved"
    config.diffusion.schedule = "cosine"
    config.diffusion.learned_variance = True
    config.loss.kind = "hybrid"
    config.sample.variance = "learned"
    return config

"""The digits in one step or several: a student of digits_flow by MeanFlow (Geng et al. 2025).

Command: python train.py --config=configs/digits_mean_flow.py, after
  python train.py --config=configs/digits_flow.py
Hardware: one CPU core, 7 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits in one step or several."""
    config = experiment("digits_flow")
    config.name = "digits_mean_flow"
    config.task = "distil"
    config.teacher.workdir = "runs/digits_flow"
    config.distil.method = "mean_flow"
    config.optim.learning_rate = 3e-4
    config.optim.decay_steps = 1900
    config.train.num_steps = 2000
    config.sample.sampler = "mean_flow"
    config.sample.num_steps = 1
    config.log.preview_steps = 1
    return config

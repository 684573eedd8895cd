"""The digits in one step or several: a student of digits_flow by easy consistency tuning (Geng et al. 2024).

Command: python train.py --config=configs/digits_consistency.py, after
  python train.py --config=configs/digits_flow.py
Hardware: one CPU core, 7 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits in one step or several."""
    config = experiment("digits_flow")
    config.name = "digits_consistency"
    config.task = "distil"
    config.teacher.workdir = "runs/digits_flow"
    config.distil.method = "consistency"
    config.distil.stage_steps = 250  # the gap is halved seven times
    config.optim.learning_rate = 3e-4
    config.optim.decay_steps = 1900
    config.train.num_steps = 2000
    config.sample.sampler = "consistency"
    config.sample.num_steps = 2
    config.log.preview_steps = 2
    return config

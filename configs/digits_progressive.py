"""The digits in one step: a student of digits_flow by progressive distillation, after Salimans & Ho 2022.

One step of the student is four of its teacher's instead of two, and the error is measured by the pseudo-Huber distance.

Command: python train.py --config=configs/digits_progressive.py, after
  python train.py --config=configs/digits_flow.py
Hardware: one CPU core, 24 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits in one step."""
    config = experiment("digits_flow")
    config.name = "digits_progressive"
    config.task = "distil"
    config.teacher.workdir = "runs/digits_flow"
    config.distil.first_steps = 16
    config.distil.teacher_steps = 4
    config.distil.distance = "huber"
    config.distil.stage_steps = 1500
    config.loss.times = "uniform"
    config.optim.warmup_steps = 50
    config.optim.decay_steps = 1450
    config.optim.ema_decay = 0.98
    config.train.num_steps = 4500  # for chains of 16, 4 and 1 steps
    config.sample.num_steps = 1
    config.log.preview_steps = 1
    return config

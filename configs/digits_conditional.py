"""The digits conditioned on the class, for classifier-free guidance (Ho & Salimans 2022).

One training image in ten gets the null label.

Command: python train.py --config=configs/digits_conditional.py, then
  python sample.py --workdir=runs/digits_conditional --labels=7 --guidance_scale=2
Hardware: 2 CPU cores, about 5 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits experiment, conditioned on the class."""
    config = experiment("digits")
    config.name = "digits_conditional"
    config.labels.num_classes = 10
    config.labels.dropout = 0.1
    return config

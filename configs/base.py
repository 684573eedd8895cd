"""The base configuration: the default of every key, which the other files of this folder change in part.

`docs/configuration.md` and `python train.py --help_config` list every key with its default and its meaning; both come
from `ddpm_jax/config/schema.py`.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import base_config


def get_config() -> ConfigDict:
    """The base configuration: Ho et al. 2020's network and training for 32x32 images."""
    return base_config()

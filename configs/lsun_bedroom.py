"""LSUN bedroom 256x256, as in Ho et al. 2020: 113.7M parameters.

Command: python train.py --config=configs/lsun_bedroom.py --config.data.path=DIR
Data: python -m ddpm_jax.data.prepare lsun/bedroom --data_dir=DIR
  or a folder of images: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8; the training in the paper ran at 2.2 steps/s.
Reproduces: the settings of FID 6.36 after 2.4M steps; not rerun here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The LSUN bedroom experiment."""
    config = experiment("celebahq256")
    config.name = "lsun_bedroom"
    config.data.name = "lsun/bedroom"
    config.train.num_steps = 2_400_000
    return config

"""LSUN church 256x256, as in Ho et al. 2020: 113.7M parameters.

Command: python train.py --config=configs/lsun_church.py --config.data.path=DIR
Data: python -m ddpm_jax.data.prepare lsun/church_outdoor --data_dir=DIR
  or a folder of images: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8; the training in the paper ran at 2.2 steps/s.
Reproduces: the settings of FID 7.89 after 1.2M steps; not rerun here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The LSUN church experiment."""
    config = experiment("celebahq256")
    config.name = "lsun_church"
    config.data.name = "lsun/church_outdoor"
    config.train.num_steps = 1_200_000
    return config

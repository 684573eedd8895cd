"""CIFAR-10, unconditional, as in Ho et al. 2020: 35.7M parameters.

Command: python train.py --config=configs/cifar10.py --config.data.path=DIR
Data: python -m ddpm_jax.data.prepare cifar10 --data_dir=DIR
  or a folder of images: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8 or a modern GPU; the training in the paper took 10.6 hours on a TPU v3-8 (21
  steps/s).
Reproduces: the settings of FID 3.17, Inception score 9.46 after 800k steps (50,000 samples of the averaged
  parameters, statistics of the training set); not rerun here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CIFAR-10 experiment."""
    config = experiment("base")
    config.name = "cifar10"
    config.data.source = "tfds"
    config.data.name = "cifar10"
    config.data.on_device = True
    return config

"""CIFAR-10 conditioned on the class, for classifier-free guidance (Ho & Salimans 2022).

One training image in ten gets the null label.

Command: python train.py --config=configs/cifar10_conditional.py --config.data.path=DIR, then
  python sample.py --workdir=runs/cifar10_conditional --labels=all --guidance_scale=1.5
Data: python -m ddpm_jax.data.prepare cifar10 --data_dir=DIR
  or a folder with ten sub-folders: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8 or several modern GPUs.
Reproduces: nothing published; Ho et al. 2020's network, conditioned on the class.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CIFAR-10 experiment, conditioned on the class."""
    config = experiment("cifar10")
    config.name = "cifar10_conditional"
    config.labels.num_classes = 10
    config.labels.dropout = 0.1
    return config

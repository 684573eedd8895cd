"""CIFAR-10 with its classes, hidden from one image in ten, for classifier-free guidance (Ho & Salimans 2022).

Command: python train.py --config=configs/cifar10_conditional.py --config.data.path=DIR, then
  python sample.py --workdir=runs/cifar10_conditional --labels=all --guidance_scale=1.5
Data: python -m ddpm_jax.data.prepare cifar10 --data_dir=DIR
  or a folder of ten folders: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8 or several modern GPUs.
Reproduces: nothing published; Ho et al. 2020's network, told the class.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CIFAR-10 experiment, told the class."""
    config = experiment("cifar10")
    config.name = "cifar10_conditional"
    config.labels.num_classes = 10
    config.labels.dropout = 0.1
    return config

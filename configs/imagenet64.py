"""ImageNet 64x64, unconditional, as in Nichol & Dhariwal 2021: cosine, T = 4000, learned variance, hybrid loss.

Command: python train.py --config=configs/imagenet64.py --config.data.path=DIR
  for the best likelihood: --config.loss.kind=vlb --config.loss.times=importance
Data: python -m ddpm_jax.data.prepare imagenet_resized/64x64 --data_dir=DIR
  or a folder of images: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU pod slice or 8 modern GPUs.
Reproduces: the settings of 3.57 bits/dim with the hybrid loss, 3.53 with the bound (1.5M steps); not rerun here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The ImageNet experiment: the improved CIFAR-10 experiment with a deeper network."""
    config = experiment("cifar10_improved")
    config.name = "imagenet64"
    config.data.name = "imagenet_resized/64x64"
    config.data.on_device = False
    config.data.image_size = 64
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.dropout = 0.0
    config.train.num_steps = 1_500_000
    return config

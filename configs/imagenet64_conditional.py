"""ImageNet 64x64 conditioned on its 1,000 classes, for classifier-free guidance.

One training image in ten gets the null label.

Command: python train.py --config=configs/imagenet64_conditional.py --config.data.path=DIR, then
  python sample.py --workdir=runs/imagenet64_conditional --labels=207 --guidance_scale=1.3
Data: as for configs/imagenet64.py
Hardware: meant for a TPU pod slice or 8 modern GPUs.
Reproduces: nothing published; Ho & Salimans 2022 (FID 1.55 at w = 0.1) train ADM's larger network.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The ImageNet experiment, conditioned on the class."""
    config = experiment("imagenet64")
    config.name = "imagenet64_conditional"
    config.labels.num_classes = 1000
    config.labels.dropout = 0.1
    return config

"""A classifier of noisy CIFAR-10 images, to guide configs/cifar10.py (Dhariwal & Nichol 2021, section 4).

Command: python train.py --config=configs/cifar10_classifier.py --config.data.path=DIR, then
  python sample.py --workdir=runs/cifar10 --classifier_workdir=runs/cifar10_classifier --labels=7
Data: as for configs/cifar10.py
Hardware: meant for one modern GPU.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The encoder and the middle of the CIFAR-10 network, trained to predict the class."""
    config = experiment("cifar10")
    config.name = "cifar10_classifier"
    config.task = "classify"
    config.labels.num_classes = 10
    config.optim.learning_rate = 3e-4
    config.train.num_steps = 100_000
    config.log.preview_every = 0
    return config

"""A classifier of noisy digits, to guide any model of digits (Dhariwal & Nichol 2021, section 4).

Command: python train.py --config=configs/digits_classifier.py, then
  python sample.py --workdir=runs/digits --classifier_workdir=runs/digits_classifier --labels=7
  python evaluate.py --workdir=runs/digits_classifier --metrics=accuracy
Hardware: 2 CPU cores, about 2 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The encoder and the middle of the network of the digits, trained to predict the class."""
    config = experiment("digits")
    config.name = "digits_classifier"
    config.task = "classify"
    config.labels.num_classes = 10
    config.model.dropout = 0.1
    config.loss.times = "uniform"
    config.train.num_steps = 2000
    config.log.preview_every = 0
    return config

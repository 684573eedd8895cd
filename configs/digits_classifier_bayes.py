"""The classifier of noisy digits with a Gaussian posterior over its last layer, trained by the ELBO over weights.

Command: python train.py --config=configs/digits_classifier_bayes.py, then
  python sample.py --workdir=runs/digits --classifier_workdir=runs/digits_classifier_bayes --labels=7
  python benchmarks/bayes_digits.py
Hardware: 2 CPU cores, about 3 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The classifier of digits with a posterior over its last layer."""
    config = experiment("digits_classifier")
    config.name = "digits_classifier_bayes"
    config.posterior.weights = "last"
    config.posterior.samples_per_step = config.train.batch_size
    config.train.num_steps = 4000  # the standard deviation starts at 0.05 and grows slowly
    return config

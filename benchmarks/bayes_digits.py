"""Does a classifier with a posterior over its weights know what it does not know?

  python benchmarks/bayes_digits.py

Needs the runs of configs/digits_classifier.py and digits_classifier_bayes.py. On the 500 test digits, clean: accuracy,
negative log-likelihood and expected calibration error of both. On them and on images of no digit (uniform noise,
inverted digits): the predictive entropy and its part that the weights are unsure of, the mutual information.
"""

import _root  # noqa: F401
import numpy as np
from absl import flags

from ddpm_jax import bayes, program
from ddpm_jax.data.digits import Digits
from ddpm_jax.images import from_uint8
from ddpm_jax.metrics.calibration import expected_calibration_error
from ddpm_jax.run import Run

POINT = flags.DEFINE_string("point_workdir", "runs/digits_classifier", "Of the point estimate.")
BAYES = flags.DEFINE_string("bayes_workdir", "runs/digits_classifier_bayes", "Of the posterior.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "Samples of the weights.", lower_bound=1)


def opened(workdir):
    """The run of a classifier that averages over many samples of its weights."""
    run = Run(workdir)
    run.config.posterior.num_samples = NUM_SAMPLES.value
    return run


def main():
    """Prints both tables."""
    source, rng = Digits("test"), np.random.default_rng(0)
    label = np.array([source[i]["label"] for i in range(len(source))])
    digits = from_uint8(np.stack([source[i]["image"] for i in range(len(source))]))
    noise = rng.uniform(-1, 1, digits.shape).astype(np.float32)
    runs = {"point estimate": opened(POINT.value), "posterior": opened(BAYES.value)}
    print(f"{len(label)} test digits       accuracy  nll nats  calibration error")
    for name, run in runs.items():
        prob = np.exp(bayes.predictive_log_prob(run.log_probs(digits)))
        right, nll = np.mean(prob.argmax(-1) == label), -np.mean(np.log(prob[np.arange(len(label)), label]))
        print(f"{name:<20}{right:11.3f}{nll:10.4f}{expected_calibration_error(prob, label):19.4f}")
    print(f"\nposterior, {NUM_SAMPLES.value} samples  entropy  mutual information, nats")
    for name, images in (("test digits", digits), ("inverted digits", -digits), ("uniform noise", noise)):
        unsure = bayes.uncertainty(runs["posterior"].log_probs(images))
        entropy, information = float(unsure.predictive_entropy.mean()), float(unsure.mutual_information.mean())
        print(f"{name:<22}{entropy:10.4f}{information:20.4f}")


if __name__ == "__main__":
    program.run(main)

"""Measures how well a classifier with a posterior over its weights knows where it is uncertain.

  python benchmarks/bayes_digits.py

Needs trained runs of configs/digits_classifier.py and configs/digits_classifier_bayes.py; if there are several of each,
their mean is printed too. On the 500 clean test digits, it measures accuracy, negative log-likelihood and expected
calibration error of the point estimate, of the posterior, and of the posterior's mean used as a point estimate. On
these and on images that are not digits (uniform noise, inverted digits), it measures the predictive entropy and the
mutual information, which is the part of the entropy that comes from the uncertain weights.
"""

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.data.digits import Digits
from ddpm_jax.diffusion import bayes
from ddpm_jax.diffusion.bayes import MeanField
from ddpm_jax.metrics.calibration import expected_calibration_error
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.images import from_uint8

POINT = flags.DEFINE_list(
    "point_workdir", "runs/digits_classifier", "The runs of the point estimate, separated by commas."
)
BAYES = flags.DEFINE_list(
    "bayes_workdir", "runs/digits_classifier_bayes", "The runs with a posterior, separated by commas."
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "The number of samples of the weights.", lower_bound=1)


def opened(workdir: str, *, only_mean: bool = False) -> Run:
    """The run of a classifier that averages over many samples of its weights, or uses their mean."""
    run = Run(workdir)
    run.config.posterior.num_samples = 1 if only_mean else NUM_SAMPLES.value
    if only_mean:
        assert isinstance(run.params, MeanField), "the run has a posterior"
        certain = jax.tree.map(lambda log_std: jnp.full_like(log_std, -jnp.inf), run.params.log_std)
        run.params = run.params._replace(log_std=certain)
    return run


def quality(run: Run, images: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Accuracy, negative log-likelihood in nats and expected calibration error, `[3]`.

    Args:
      run: run of a classifier.
      images: `[N, H, W, C]` in [-1, 1].
      label: `[N]` true classes.
    """
    prob = np.exp(bayes.predictive_log_prob(run.log_probs(images)))
    nll = -np.mean(np.log(prob[np.arange(len(label)), label]))
    return np.array([np.mean(prob.argmax(-1) == label), nll, expected_calibration_error(prob, label)])


def unsureness(run: Run, images: np.ndarray) -> np.ndarray:
    """Mean predictive entropy and mutual information of images `[N, H, W, C]` in [-1, 1], `[2]` nats."""
    unsure = bayes.uncertainty(run.log_probs(images))
    return np.array([unsure.predictive_entropy.mean(), unsure.mutual_information.mean()])


def show(name: str, rows: list[np.ndarray], spec: str) -> None:
    """Prints a row `[M]` for each run, and their mean if there are several; `spec` formats a number."""
    for row in [*rows, np.mean(rows, axis=0)] if len(rows) > 1 else rows:
        print(f"{name:<22}" + "".join(f"{value:{spec}}" for value in row))
        name = "" if row is not rows[-1] else "  mean"


def main() -> None:
    """Prints both tables."""
    source, rng = Digits("test"), np.random.default_rng(0)
    label = np.array([source[i]["label"] for i in range(len(source))])
    digits = from_uint8(np.stack([source[i]["image"] for i in range(len(source))]))
    noise = rng.uniform(-1, 1, digits.shape).astype(np.float32)
    posteriors = [opened(workdir) for workdir in BAYES.value]
    classifiers = {
        "point estimate": [opened(workdir) for workdir in POINT.value],
        "posterior": posteriors,
        "its mean alone": [opened(workdir, only_mean=True) for workdir in BAYES.value],
    }
    print(f"{f'{len(label)} test digits':<22}  accuracy  nll nats       ece")
    for name, runs in classifiers.items():
        show(name, [quality(run, digits, label) for run in runs], "10.4f")
    print(f"\n{f'{NUM_SAMPLES.value} samples of weights':<22}   entropy  mutual information, nats")
    for name, images in (("test digits", digits), ("inverted digits", -digits), ("uniform noise", noise)):
        show(name, [unsureness(run, images) for run in posteriors], "10.4f")


if __name__ == "__main__":
    cli.run(main, module=__name__)

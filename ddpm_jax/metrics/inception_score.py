"""The Inception score: whether each image has a clear class, and all together many (Salimans et al. 2016)."""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.errors import check_counts
from ddpm_jax.metrics.features import checked


class InceptionScore(NamedTuple):
    """The Inception score, from 1 to the number of classes."""

    value: float
    """The mean over the splits."""
    deviation: float
    """The population standard deviation over the splits, which the literature writes after the sign ±."""
    standard_error: float
    """Of the mean over the splits; 0 if there is one split, of which it is not known."""
    num_images: int


def inception_score(logits: ArrayLike, *, num_splits: int = 10) -> InceptionScore:
    r"""The Inception score of images, from the logits of a classifier, in consecutive splits of equal size.

    $$ \exp \frac{1}{n} \sum_{i = 1}^n \mathrm{KL}(p(y | x_i), \bar p(y)), \qquad
    \bar p(y) = \frac{1}{n} \sum_{i = 1}^n p(y | x_i) $$

    The score of n images is at most n and is biased downwards for small n, so it depends on the number of images and on
    the number of splits: the literature has 50,000 images in 10 splits. It does not compare with real images.

    Args:
      logits: `[N, K]`; for Inception, the logits without bias.
      num_splits: number of splits, 1 or more; split i has the images from `floor(i N / num_splits)` on.

    Raises:
      ValueError: the shape is not `[N, K]`.
      UserError: there are fewer images than splits, num_splits is below 1, or a logit is not finite.
    """
    check_counts(num_splits=num_splits)
    array = checked(logits, "logits", least=num_splits).astype(np.float64)
    log_prob = array - array.max(axis=1, keepdims=True)
    log_prob -= np.log(np.sum(np.exp(log_prob), axis=1, keepdims=True))
    edges = [i * len(array) // num_splits for i in range(num_splits + 1)]
    scores = [_score(log_prob[start:end]) for start, end in itertools.pairwise(edges)]
    deviation = float(np.std(scores))
    return InceptionScore(float(np.mean(scores)), deviation, deviation / max(num_splits - 1, 1) ** 0.5, len(array))


def _score(log_prob: np.ndarray) -> float:
    """The score of one split, of log probabilities `[n, K]`."""
    prob = np.exp(log_prob)
    mean = prob.mean(axis=0)
    # A class whose probability underflows for every image adds nothing.
    log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
    return float(np.exp(np.mean(np.sum(prob * (log_prob - log_mean), axis=1))))

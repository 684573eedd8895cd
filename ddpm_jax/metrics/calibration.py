"""Calibration: whether predictions with 90 % confidence are correct nine times in ten (Guo et al. 2017)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Reliability(NamedTuple):
    """Predictions in bins of equal width by their confidence, the probability of the most likely class."""

    count: np.ndarray
    """`[B]`, the number of predictions in each bin."""
    confidence: np.ndarray
    """`[B]`, their mean confidence, 0 in an empty bin."""
    accuracy: np.ndarray
    """`[B]`, the share of them that is right, 0 in an empty bin."""


def reliability(prob: ArrayLike, label: ArrayLike, *, num_bins: int = 15) -> Reliability:
    """Confidence and accuracy by bins of confidence, as reliability diagrams show them (Guo et al. 2017, section 2).

    Args:
      prob: `[N, K]` probabilities.
      label: `[N]` true classes.
      num_bins: B, the number of bins of (0, 1].
    """
    prob, label = np.asarray(prob, np.float64), np.asarray(label)
    confidence, right = prob.max(axis=1), prob.argmax(axis=1) == label
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, right))
    return Reliability(count, *(total / np.maximum(count, 1) for total in sums))


def expected_calibration_error(prob: ArrayLike, label: ArrayLike, *, num_bins: int = 15) -> float:
    """The mean gap between confidence and accuracy, in [0, 1] (Guo et al. 2017, eq. 3).

    The gap of each bin of `reliability` is weighted by the number of predictions in it.

    Args:
      prob, label, num_bins: as for `reliability`.
    """
    bins = reliability(prob, label, num_bins=num_bins)
    return float(np.sum(bins.count * np.abs(bins.accuracy - bins.confidence)) / bins.count.sum())

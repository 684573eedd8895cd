"""Calibration: whether predictions with 90 % confidence are correct nine times in ten (Guo et al. 2017)."""

import numpy as np
from numpy.typing import ArrayLike


def expected_calibration_error(prob: ArrayLike, label: ArrayLike, *, num_bins: int = 15) -> float:
    """The mean gap between confidence and accuracy, in [0, 1] (Guo et al. 2017, eq. 3).

    Predictions are sorted by the probability of their most likely class into bins of equal width; the gap of each bin
    is weighted by the number of predictions in it.

    Args:
      prob: `[N, K]` probabilities.
      label: `[N]` true classes.
      num_bins: number of bins of (0, 1].
    """
    prob, label = np.asarray(prob, np.float64), np.asarray(label)
    confidence, right = prob.max(axis=1), prob.argmax(axis=1) == label
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(label))

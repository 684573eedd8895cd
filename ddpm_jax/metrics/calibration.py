"""Calibration: whether what a classifier is sure of to 90 % is right nine times in ten (Guo et al. 2017)."""

import numpy as np


def expected_calibration_error(prob, label, *, num_bins=15):
    """The mean gap between confidence and accuracy, in [0, 1] (Guo et al. 2017, eq. 3).

    Predictions are sorted by the probability of their likeliest class into bins of equal width; the gaps of the bins
    are weighted by how many each holds.

    Args:
      prob: `[N, K]` probabilities.
      label: `[N]` true classes.
      num_bins: bins of (0, 1].
    """
    prob, label = np.asarray(prob, np.float64), np.asarray(label)
    confidence, right = prob.max(axis=1), prob.argmax(axis=1) == label
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(label))

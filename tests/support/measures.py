"""What several tests measure: the order of an error, and whether draws are those of a mixture."""

import numpy as np


def order(sizes, errors):
    """The slope of log error over log size: p where the error is a constant times `size**p`."""
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def assert_drawn_from(mixture, x, *, standard_errors=5, bias=0.0):
    """Mean, covariance and weights of draws `[B, D]` are the mixture's, within sampling error and a known bias."""
    x = np.asarray(x)
    offset = x - mixture.mean
    for drawn, exact in (
        (x, mixture.mean),
        (np.einsum("bi,bj->bij", offset, offset), mixture.covariance),
        (np.exp(mixture.log_prob_label(x)), mixture.weights),
    ):
        tolerance = standard_errors * drawn.std(axis=0) / np.sqrt(len(x)) + bias
        np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - exact), tolerance)
        assert np.all(tolerance < 0.1)

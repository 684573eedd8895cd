"""What several tests measure: the order of an error, and whether draws are those of a mixture."""

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.analytic import GaussianMixture


def order(sizes: ArrayLike, errors: ArrayLike) -> float:
    """The gradient of log error by log size: p where the error is a constant times `size**p`.

    Args:
      sizes: `[N]`, positive.
      errors: `[N]`, positive.
    """
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def assert_drawn_from(mixture: GaussianMixture, x: ArrayLike, *, standard_errors: float = 5, bias: float = 0.0) -> None:
    """Asserts that draws `[B, D]` have the mixture's mean, covariance and weights, up to sampling error and a bias."""
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

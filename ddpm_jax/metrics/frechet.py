r"""The Frechet distance between Gaussians with the moments of two sets of features (Heusel et al. 2017).

With the features of Inception it is the FID. Its estimate from N images is too large by about c / N, where c depends on
the generator, so distances are comparable at the same N only; `frechet_extrapolated` estimates the limit of large N.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.errors import UserError
from ddpm_jax.metrics.features import checked, checked_pair
from ddpm_jax.metrics.intervals import Estimate, Halves, at_infinity, at_this_size, halves

_ROWS = 4096  # rows that are in memory in float64 at once
LEAST_EXTRAPOLATED = 5000
"""The least number of images from which the distance is extrapolated."""


class Moments(NamedTuple):
    """Mean and covariance of features, in float64."""

    num: int | None
    """The number of images; None if it is not known, or if the moments are those of a distribution."""
    mean: np.ndarray
    """`[D]`."""
    cov: np.ndarray
    """`[D, D]`, with divisor num - 1; zero for one image."""

    @property
    def is_singular(self) -> bool:
        """Whether there are too few images, D or fewer, for a covariance of full rank.

        The distance is defined nevertheless, but the larger part of it is bias.
        """
        return self.num is not None and self.num <= len(self.mean)


def moments(features: ArrayLike) -> Moments:
    """Mean and covariance of features `[N, D]`, N at least 1.

    Raises:
      ValueError: the shape is not `[N, D]`.
      UserError: there is no image, or a feature is not finite.
    """
    array = checked(features)
    num, dims = array.shape
    mean = array.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((dims, dims))
    for start in range(0, num, _ROWS):
        centred = array[start : start + _ROWS] - mean
        scatter += centred.T @ centred
    return Moments(num, mean, scatter / max(num - 1, 1))


def combined(a: Moments, b: Moments) -> Moments:
    r"""The moments of two sets of images together, for images that come in a stream (Chan, Golub and LeVeque 1983).

    $$ \mu = \mu_a + \frac{n_b}{n} \delta, \quad (n - 1) \Sigma = (n_a - 1) \Sigma_a + (n_b - 1) \Sigma_b
    + \frac{n_a n_b}{n} \delta \delta^T, \quad \delta = \mu_b - \mu_a, \; n = n_a + n_b $$

    No large numbers are subtracted from each other, as they would be if sums of squares were added. Combine batches of
    hundreds of images, because each call costs `D^2` operations.

    Raises:
      ValueError: a number of images is not known, or the numbers of features differ.
    """
    _check_same_features(a, b)
    if a.num is None or b.num is None:
        raise ValueError("moments of an unknown number of images cannot be combined")
    num, delta = a.num + b.num, b.mean - a.mean
    scatter = (a.num - 1) * a.cov + (b.num - 1) * b.cov + (a.num * b.num / num) * np.outer(delta, delta)
    return Moments(num, a.mean + (b.num / num) * delta, scatter / (num - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    r"""The squared Frechet (2-Wasserstein) distance of two Gaussians, 0 or more; exact, singular covariances included.

    $$ d^2 = \|\mu_a - \mu_b\|^2 + \operatorname{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}) $$

    (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    Raises:
      ValueError: the numbers of features differ.
      UserError: a covariance is that of one image, or a moment is not finite.
    """
    _check_same_features(a, b)
    for each in (a, b):
        if each.num is not None and each.num < 2:
            raise UserError(f"a covariance needs at least 2 images, got {each.num}")
        if not (np.isfinite(each.mean).all() and np.isfinite(each.cov).all()):
            raise UserError("the mean or the covariance of the features is not finite; check the statistics")
    trace = np.trace(a.cov) + np.trace(b.cov) - 2 * _root_trace(np.asarray(a.cov), np.asarray(b.cov))
    return float(np.sum((a.mean - b.mean) ** 2) + max(trace, 0.0))


def frechet(
    reference: ArrayLike | Moments, generated: ArrayLike, *, num_divisions: int = 10, seed: int = 0
) -> Estimate:
    """The Frechet distance with an interval for its expectation at this number of images.

    It says how far another set of as many images may differ, and nothing about the bias, which the expectation has too.

    Args:
      reference: `[N, D]` features of real images, or their moments, which are then taken as exact.
      generated: `[M, D]` features.
      num_divisions, seed: as for `intervals.halves`.

    Raises:
      ValueError: the shapes do not match.
      UserError: a set has fewer than 4 images, or a feature is not finite.
    """
    return at_this_size(_halves(reference, generated, num_divisions, seed))[0]


def frechet_extrapolated(
    reference: ArrayLike | Moments, generated: ArrayLike, *, num_divisions: int = 10, seed: int = 0
) -> Estimate:
    r"""The Frechet distance extrapolated to infinitely many images (Chong and Forsyth 2020), with its interval.

    `intervals.at_infinity` has the equation: a line in 1 / N through all images and through halves. From features of
    both sets it removes the bias of both, so that it estimates 0 for a distribution against itself and may be negative.
    From the moments of a reference it removes the bias of the generated images alone: what remains is the part
    $c_N / N$ for the N images of the reference. Chong and Forsyth extrapolate in this second way, through more sizes.

    Args:
      reference, generated, num_divisions, seed: as for `frechet`.

    Raises:
      ValueError: the shapes do not match.
      UserError: a set has fewer than 5,000 images, or a feature is not finite.
    """
    sizes = [len(np.asarray(x)) for x in (reference, generated) if not isinstance(x, Moments)]
    if min(sizes) < LEAST_EXTRAPOLATED:
        raise UserError(
            f"{min(sizes):,} images are too few to extrapolate the Frechet distance: use {LEAST_EXTRAPOLATED:,} or "
            "more, or the kernel distance (KID), which has no bias at any number"
        )
    return at_infinity(_halves(reference, generated, num_divisions, seed))[0]


def _halves(reference: ArrayLike | Moments, generated: ArrayLike, num_divisions: int, seed: int) -> Halves:
    """The distance of all images and of halves of them, each of which has the 2 images that a covariance needs."""
    if isinstance(reference, Moments):
        given = reference
        sets: tuple[np.ndarray, ...] = (checked(generated, "generated features", least=4),)
        return halves(lambda x: frechet_distance(given, moments(x)), *sets, num_divisions=num_divisions, seed=seed)
    sets = checked_pair(reference, generated, least=4)
    return halves(lambda x, y: frechet_distance(moments(x), moments(y)), *sets, num_divisions=num_divisions, seed=seed)


def _check_same_features(a: Moments, b: Moments) -> None:
    shapes = [np.shape(array) for array in (a.mean, a.cov, b.mean, b.cov)]
    dims = np.size(a.mean)
    if shapes != [(dims,), (dims, dims)] * 2:
        raise ValueError(f"moments must be [D] and [D, D] with the same D, got {', '.join(map(str, shapes))}")


def _root_trace(a: np.ndarray, b: np.ndarray) -> float:
    r"""`tr (A B)^{1/2}` of covariances: with $A = F F^T$, the sum of the roots of the eigenvalues of $F^T B F$.

    Eigenvalues that rounding alone may have made are left out: their roots would be 1e8 times as large as they are.
    """
    factor = _factor(a)
    eigenvalues = np.linalg.eigvalsh(factor.T @ b @ factor)
    return float(np.sum(np.sqrt(eigenvalues[_above_rounding(eigenvalues)])))


def _factor(cov: np.ndarray) -> np.ndarray:
    """F `[D, R]` with `F F^T` the covariance: Cholesky's factor, or from eigenvectors if the matrix is singular."""
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:  # not positive definite
        pass
    eigenvalues, vectors = np.linalg.eigh(cov)
    kept = _above_rounding(eigenvalues)
    return vectors[:, kept] * np.sqrt(eigenvalues[kept])


def _above_rounding(eigenvalues: np.ndarray) -> np.ndarray:
    """Which eigenvalues `[D]` are larger than what rounding alone makes of 0."""
    return eigenvalues > 10 * np.finfo(np.float64).eps * eigenvalues.max(initial=0)

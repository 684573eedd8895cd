"""Precision and recall: are the samples realistic, and do they cover the real images (Kynkaanniemi et al. 2019).

The support of each set is estimated by balls around its points whose radius is the distance to the k-th nearest
neighbour. Precision is the share of samples inside the balls of the real set, recall the share of real points inside
the balls of the samples.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from ddpm_jax.metrics.features import checked_pair
from ddpm_jax.metrics.neighbours import nearest, num_within


class PrecisionRecall(NamedTuple):
    """Two numbers in [0, 1]: precision measures quality, recall measures diversity."""

    precision: float
    recall: float


def precision_recall(real: ArrayLike, generated: ArrayLike, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 to 3).

    Distances are exact to the rounding of float32, and a ball includes its edge.

    Args:
      real: `[N, D]` features of real images.
      generated: `[M, D]` features of samples; choose M = N, since both measures depend on the sizes.
      k: the k-th nearest neighbour sets the radius of a ball, 1 or more.

    Raises:
      ValueError: k is below 1, a set has k points or fewer, or the numbers of features differ.
      UserError: a feature is not finite.
    """
    real, generated = checked_neighbours(real, generated, k)
    return PrecisionRecall(
        precision=float(np.mean(num_within(generated, real, radii(real, k)) > 0)),
        recall=float(np.mean(num_within(real, generated, radii(generated, k)) > 0)),
    )


def radii(points: np.ndarray, k: int) -> np.ndarray:
    """The distance of every point to its k-th nearest neighbour among the others, `[N]`, from points `[N, D]`."""
    return nearest(points, points, k + 1).distance[:, -1]


def checked_neighbours(real: ArrayLike, generated: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, D]` and `[M, D]` as `features.checked_pair`, of sets in which every point has k neighbours.

    Raises:
      ValueError: k is below 1, a set has k points or fewer, or the shapes do not match.
      UserError: a feature is not finite.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    pair = checked_pair(np.asarray(real), np.asarray(generated))
    if min(map(len, pair)) <= k:
        raise ValueError(f"k = {k} neighbours need more than {k} points on each side")
    return pair

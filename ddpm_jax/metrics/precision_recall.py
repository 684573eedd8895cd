"""Precision and recall: are the samples realistic, and is everything real among them (Kynkaanniemi et al. 2019).

Each set is taken to cover the balls around its points that reach to their k-th nearest neighbour. Precision is the
share of samples inside the real set's balls, recall the share of real points inside the samples'.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_ROWS = 1024  # rows of the distance matrix that are held at once


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]: precision speaks of quality, recall of diversity."""

    precision: float
    recall: float


def precision_recall(real, generated, *, k=3):
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 to 3).

    Args:
      real: `[N, D]` features of real images.
      generated: `[M, D]` features of samples; take M = N, both measures depend on the sizes.
      k: neighbour that sets the radius of a ball, 1 or more.

    Raises:
      ValueError: k is below 1, the sets have k points or fewer, or their numbers of features differ.
    """
    real, generated = jnp.asarray(real, jnp.float32), jnp.asarray(generated, jnp.float32)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features are [N, D] and [M, D], got {real.shape} and {generated.shape}")
    if k < 1:
        raise ValueError(f"k is 1 or more, got {k}")
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"k = {k} neighbours need more than {k} points on each side")
    return PrecisionRecall(
        precision=float(np.mean(_covered(generated, real, _radii(real, k)))),
        recall=float(np.mean(_covered(real, generated, _radii(generated, k)))),
    )


@jax.jit
def _distances(rows, points):
    """Euclidean distances `[R, N]`, from differences: by products, rounding would part a point from itself."""
    return jax.lax.map(lambda row: jnp.sqrt(jnp.sum((points - row) ** 2, axis=-1)), rows, batch_size=16)


def _radii(points, k):
    """Distance of every point to its k-th nearest neighbour among the others, `[N]`."""
    blocks = (_distances(points[i : i + _ROWS], points) for i in range(0, len(points), _ROWS))
    return jnp.concatenate([-jax.lax.top_k(-block, k + 1)[0][:, -1] for block in blocks])


def _covered(points, centres, radii):
    """Whether each point lies in at least one ball, `[N]`."""
    blocks = (_distances(points[i : i + _ROWS], centres) for i in range(0, len(points), _ROWS))
    return np.concatenate([np.asarray(jnp.any(block <= radii, axis=1)) for block in blocks])

"""Precision and recall: are the samples realistic, and do they cover the real images (Kynkaanniemi et al. 2019).

The support of each set is estimated by balls around its points whose radius is the distance to the k-th nearest
neighbour. Precision is the share of samples inside the balls of the real set, recall the share of real points inside
the balls of the samples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_ROWS = 1024  # rows of the distance matrix that are in memory at once


class PrecisionRecall(NamedTuple):
    """Two numbers in [0, 1]: precision measures quality, recall measures diversity."""

    precision: float
    recall: float


def precision_recall(real: ArrayLike, generated: ArrayLike, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 to 3).

    Args:
      real: `[N, D]` features of real images.
      generated: `[M, D]` features of samples; choose M = N, since both measures depend on the sizes.
      k: the k-th nearest neighbour sets the radius of a ball, 1 or more.

    Raises:
      ValueError: k is below 1, a set has k points or fewer, or the numbers of features differ.
    """
    real, generated = jnp.asarray(real, jnp.float32), jnp.asarray(generated, jnp.float32)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features must be [N, D] and [M, D], got {real.shape} and {generated.shape}")
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"k = {k} neighbours need more than {k} points on each side")
    return PrecisionRecall(
        precision=float(np.mean(_covered(generated, real, _radii(real, k)))),
        recall=float(np.mean(_covered(real, generated, _radii(generated, k)))),
    )


@jax.jit
def _distances(rows: jax.Array, points: jax.Array) -> jax.Array:
    """Euclidean distances `[R, N]`, from differences: with inner products a point may have a distance to itself."""
    return jax.lax.map(lambda row: jnp.sqrt(jnp.sum((points - row) ** 2, axis=-1)), rows, batch_size=16)


def _radii(points: jax.Array, k: int) -> jax.Array:
    """The distance of every point to its k-th nearest neighbour among the others, `[N]`."""
    blocks = (_distances(points[i : i + _ROWS], points) for i in range(0, len(points), _ROWS))
    return jnp.concatenate([-jax.lax.top_k(-block, k + 1)[0][:, -1] for block in blocks])


def _covered(points: jax.Array, centres: jax.Array, radii: jax.Array) -> np.ndarray:
    """Whether each point lies in at least one ball, `[N]`."""
    blocks = (_distances(points[i : i + _ROWS], centres) for i in range(0, len(points), _ROWS))
    return np.concatenate([np.asarray(jnp.any(block <= radii, axis=1)) for block in blocks])

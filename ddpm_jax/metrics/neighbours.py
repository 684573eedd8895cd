r"""Nearest neighbours and balls around points, exact, at the speed of a matrix product.

Squared distances by a product, $\|x\|^2 + \|y\|^2 - 2 x \cdot y$ in float32, have a rounding error that may separate
a point from itself. They only choose which pairs can matter: the distances of those pairs are computed from differences
in float64, and a row in which more pairs could matter than were chosen is computed from differences as a whole.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.metrics.blocks import by_rows

_SPARE = 8  # pairs per row, besides the k nearest ones, whose distance is computed from differences


class Neighbours(NamedTuple):
    """The k nearest of M points for each of N rows, the nearest first."""

    distance: np.ndarray
    """`[N, k]` Euclidean distances, float32."""
    index: np.ndarray
    """`[N, k]`, which of the M points they are."""


def nearest(rows: np.ndarray, points: np.ndarray, k: int) -> Neighbours:
    """The k nearest points of every row; a row that is itself among the points has itself at distance 0.

    Args:
      rows: `[N, D]`, finite; computed with in float32, as are the points.
      points: `[M, D]`, M at least k.
      k: number of neighbours, 1 or more.
    """
    a, b = _Centred.pair(rows, points)
    distance, index, sure = by_rows(_nearest_of_candidates, (a.exact, a.shifted, a.norm), b, k=k)
    if not sure.all():
        distance[~sure], index[~sure] = by_rows(_nearest_of_all, (a.exact[~sure],), (b.exact,), k=k)
    return Neighbours(distance, index)


def num_within(rows: np.ndarray, points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """How many of the balls around points contain each row, `[N]`; a ball includes its edge.

    Args:
      rows: `[N, D]`, finite; computed with in float32, as are the points.
      points: `[M, D]`, the centres.
      radii: `[M]`, float32.
    """
    a, b = _Centred.pair(rows, points)
    count, sure = by_rows(_within_by_candidates, (a.exact, a.shifted, a.norm), (*b, radii))
    if not sure.all():
        count[~sure] = by_rows(_within_of_all, (a.exact[~sure],), (b.exact, radii))
    return count


class _Centred(NamedTuple):
    """Points `[N, D]` in float32, and shifted so that their norms, and thus the errors of products, are small."""

    exact: np.ndarray
    shifted: np.ndarray
    norm: np.ndarray
    """`[N]`, squared norms of the shifted points."""

    @classmethod
    def pair(cls, rows: np.ndarray, points: np.ndarray) -> tuple["_Centred", "_Centred"]:
        centre = np.mean(points, axis=0, dtype=np.float64).astype(np.float32)

        def centred(x: np.ndarray) -> _Centred:
            x = np.asarray(x, np.float32)
            shifted = x - centre
            return cls(x, shifted, np.einsum("nd,nd->n", shifted, shifted))

        return centred(rows), centred(points)


def _bounds(row: jax.Array, row_norm: jax.Array, point: jax.Array, point_norm: jax.Array) -> tuple[jax.Array, ...]:
    """Squared distances `[R, M]` by products, and how far the rounding may have moved them.

    A sum of D products has an error of about sqrt(D) roundings. The shift rounds each component once, in the same way
    as one more rounding of the norms.
    """
    both = row_norm[:, None] + point_norm
    product = jnp.matmul(row, point.T, precision=jax.lax.Precision.HIGHEST)
    return both - 2 * product, (8 + row.shape[1] ** 0.5) * float(np.finfo(np.float32).eps) * both


def _distances(rows: jax.Array, points: jax.Array) -> jax.Array:
    """Distances from differences, rounded to float32: `[R, 1, D]` and `[R, P, D]`, or alike, to `[R, P]`."""
    squares = (points.astype(jnp.float64) - rows.astype(jnp.float64)) ** 2
    return jnp.sqrt(jnp.sum(squares, axis=-1)).astype(jnp.float32)


def _nearest_of_candidates(
    row: jax.Array, shifted: jax.Array, norm: jax.Array, *points: jax.Array, k: int
) -> tuple[jax.Array, ...]:
    """Distances and indices `[R, k]`, and whether no point outside the candidates can be nearer `[R]`."""
    exact, point_shifted, point_norm = points
    square, error = _bounds(shifted, norm, point_shifted, point_norm)
    num = min(k + _SPARE, len(exact))
    nearness, candidate = jax.lax.top_k(error - square, num)  # those that may be nearest by the lower bound
    negative, order = jax.lax.top_k(-_distances(row[:, None], exact[candidate]), k)
    # Reductions, because XLA's CPU backend sorts all M if the last column is sliced from the result of top_k.
    farthest, bound = jnp.max(-negative, axis=1), jnp.max(-nearness, axis=1)
    index = jnp.take_along_axis(candidate, order, axis=1)
    return -negative, index, (farthest**2 < bound) | (num == len(exact))


def _nearest_of_all(row: jax.Array, points: jax.Array, *, k: int) -> tuple[jax.Array, jax.Array]:
    """Distances and indices `[R, k]` from all differences, one row at a time."""

    def one(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        negative, index = jax.lax.top_k(-_distances(x, points), k)
        return -negative, index

    return jax.lax.map(one, row)


def _within_by_candidates(
    row: jax.Array, shifted: jax.Array, norm: jax.Array, *points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The number of balls that contain each row, `[R]`, and whether every pair in doubt was a candidate `[R]`."""
    exact, point_shifted, point_norm, radii = points
    square, error = _bounds(shifted, norm, point_shifted, point_norm)
    beyond = square - radii**2
    in_doubt = ~(jnp.abs(beyond) > error)
    num = min(_SPARE, len(exact))
    doubted, candidate = jax.lax.top_k(in_doubt.astype(jnp.float32), num)
    contained = (doubted > 0) & (_distances(row[:, None], exact[candidate]) <= radii[candidate])
    count = jnp.sum(~in_doubt & (beyond < 0), axis=1) + jnp.sum(contained, axis=1)
    return count, jnp.sum(in_doubt, axis=1) <= num


def _within_of_all(row: jax.Array, points: jax.Array, radii: jax.Array) -> jax.Array:
    """The number of balls that contain each row, `[R]`, from all differences, one row at a time."""
    return jax.lax.map(lambda x: jnp.sum(_distances(x, points) <= radii), row)

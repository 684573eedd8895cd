r"""The kernel distance (KID), which has no bias at any number of images (Binkowski et al. 2018).

It is the squared maximum mean discrepancy of two sets of features with the kernel $k(x, y) = (x \cdot y / D + 1)^3$,
estimated from all pairs of different images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddpm_jax.errors import check_counts
from ddpm_jax.metrics.blocks import by_rows
from ddpm_jax.metrics.features import checked_pair
from ddpm_jax.metrics.intervals import NORMAL, Estimate


def kernel_distance(real: ArrayLike, generated: ArrayLike) -> Estimate:
    r"""The unbiased squared MMD of N real and M generated images, from all pairs, with its standard error.

    $$ \text{KID} = \frac{1}{N (N - 1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{M (M - 1)} \sum_{i \ne j} k(y_i, y_j)
    - \frac{2}{N M} \sum_{i, j} k(x_i, y_j) $$

    This is a U-statistic. With $g(z) = E[k(z, x)] - E[k(z, y)]$ and the covariances $C_P, C_Q$ of the kernel's features
    its variance is exactly

    $$ \underbrace{\frac{4}{N} \operatorname{Var}[g(x)] + \frac{4}{M} \operatorname{Var}[g(y)]}_{v_1} +
    \underbrace{\frac{2 \operatorname{tr} C_P^2}{N (N - 1)} + \frac{2 \operatorname{tr} C_Q^2}{M (M - 1)} +
    \frac{4 \operatorname{tr} C_P C_Q}{N M}}_{v_0} $$

    of which every term is estimated without bias from the same sums over pairs. For equal distributions $v_1$ is 0.
    The value may be negative. Its interval of 95 % is made by `_interval`.

    Args:
      real: `[N, D]` features.
      generated: `[M, D]` features. The products are computed in float32, everything else in float64.

    Raises:
      ValueError: the shapes do not match.
      UserError: a set has fewer than 4 images, or a feature is not finite.
    """
    real, generated = checked_pair(np.asarray(real), np.asarray(generated), least=4)
    x, y = np.asarray(real, np.float32), np.asarray(generated, np.float32)
    within_x, within_y = _sums(x, x, same=True), _sums(y, y, same=True)
    from_x, from_y = _sums(x, y, same=False), _sums(y, x, same=False)
    N, M = len(x), len(y)
    value = within_x.total / (N * (N - 1)) + within_y.total / (M * (M - 1)) - 2 * from_x.total / (N * M)

    square_x, square_y, product = _own_square(within_x), _own_square(within_y), _product(from_x, from_y)
    first = 4 / N * (_variance(within_x, from_x) - square_x / (N - 2) - product / M)
    first += 4 / M * (_variance(within_y, from_y) - square_y / (M - 2) - product / N)
    second = 2 * square_x / (N * (N - 1)) + 2 * square_y / (M * (M - 1)) + 4 * product / (N * M)
    first, second = max(first, 0.0), max(second, 0.0)
    # Var[g(x)] is at most the largest eigenvalue of C_P times the distance, and that eigenvalue the root of tr C_P^2.
    steepest = 4 / N * max(square_x, 0.0) ** 0.5 + 4 / M * max(square_y, 0.0) ** 0.5
    low, high = _interval(value, first, second, steepest)
    return Estimate(float(value), float(np.sqrt(first + second)), low, high, (N, M))


class SubsetSpread(NamedTuple):
    """The kernel distance as it is usually reported, over subsets."""

    value: float
    """The mean over the subsets."""
    deviation: float
    """The population standard deviation over the subsets: the error at the size of a subset, not at N."""
    num_subsets: int
    size: int


def kernel_distance_of_subsets(
    real: ArrayLike, generated: ArrayLike, *, num_subsets: int = 100, size: int = 1000, seed: int = 0
) -> SubsetSpread:
    """The mean and the spread of the kernel distance over random subsets, each drawn without replacement.

    Args:
      real, generated: `[N, D]` and `[M, D]` features.
      num_subsets: number of subsets of each set.
      size: images in a subset, 4 or more.
      seed: determines the subsets.

    Raises:
      ValueError: the shapes do not match.
      UserError: a set has fewer images than a subset, a feature is not finite, or a subset fewer than 4 images.
    """
    check_counts(num_subsets=num_subsets)
    check_counts(size=size, least=4)
    real, generated = checked_pair(np.asarray(real), np.asarray(generated), least=size)
    rng = np.random.default_rng(seed)
    values = [
        kernel_distance(*(array[rng.choice(len(array), size, replace=False)] for array in (real, generated))).value
        for _ in range(num_subsets)
    ]
    return SubsetSpread(float(np.mean(values)), float(np.std(values)), num_subsets, size)


def _interval(value: float, first: float, second: float, steepest: float) -> tuple[float, float]:
    r"""The ends of the interval of 95 %, from the parts $v_1$ and $v_0$ of the variance.

    At a distance $\theta$ near the value the variance is $v_0 + r \theta$ with $r = v_1 / \text{value}$. As in Wilson's
    interval of a proportion, the ends are the roots of $(\text{value} - \theta)^2 = z^2 (v_0 + r \theta)$, so that the
    interval excludes 0 exactly if the value is more than $z \sqrt{v_0}$. Up to there the value does not determine r:
    half of its upper bound is taken for the upper end, and the lower end is $z \sqrt{v_0 + v_1}$ below the value.

    Args:
      value, first, second: the distance, $v_1$ and $v_0$.
      steepest: the upper bound of r.
    """
    error = NORMAL * np.sqrt(first + second)
    excludes_0 = value > NORMAL * np.sqrt(second)
    shift = NORMAL**2 / 2 * (first / value if excludes_0 else steepest / 2)
    reach = np.hypot(error, shift)
    return float(value + shift - reach if excludes_0 else value - error), float(value + shift + reach)


class _Sums(NamedTuple):
    """Sums of the kernel between each of N images and M others, or the N - 1 others of the same set."""

    of_rows: np.ndarray
    """`[N]`."""
    total: float
    squares: float
    num: int
    """M, or N - 1."""


def _sums(rows: np.ndarray, points: np.ndarray, *, same: bool) -> _Sums:
    index = np.arange(len(rows)) if same else np.full(len(rows), -1)
    of_rows, squares = by_rows(_row_sums, (rows, index), (points,))
    return _Sums(of_rows, float(of_rows.sum()), float(squares.sum()), len(points) - same)


def _row_sums(rows: jax.Array, skipped: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of the kernel and of its square over the points, `[R]` in float64, without the skipped point of each row."""
    product = jnp.matmul(rows, points.T, precision=jax.lax.Precision.HIGHEST).astype(jnp.float64)
    kernel = (product / rows.shape[1] + 1) ** 3
    kernel = jnp.where(skipped[:, None] == jnp.arange(len(points)), 0, kernel)
    return kernel.sum(axis=1), (kernel**2).sum(axis=1)


def _own_square(sums: _Sums) -> float:
    r"""Unbiased estimate of $\operatorname{tr} C^2 = E[k_{12}^2] - 2 E[k_{12} k_{13}] + E[k_{12}]^2$ of one set."""
    N, rows = sums.num + 1, np.sum(sums.of_rows**2)
    pairs, triples = N * (N - 1), N * (N - 1) * (N - 2)
    chains = (rows - sums.squares) / triples
    apart = (sums.total**2 - 4 * rows + 2 * sums.squares) / (triples * (N - 3))
    return sums.squares / pairs - 2 * chains + apart


def _product(from_x: _Sums, from_y: _Sums) -> float:
    r"""Unbiased estimate of $\operatorname{tr} C_P C_Q$, from the sums between two sets, seen from either."""
    N, M, squares = from_y.num, from_x.num, from_x.squares
    rows, columns = np.sum(from_x.of_rows**2), np.sum(from_y.of_rows**2)
    apart = (from_x.total**2 - rows - columns + squares) / (N * (N - 1) * M * (M - 1))
    chains = (rows - squares) / (N * M * (M - 1)) + (columns - squares) / (N * M * (N - 1))
    return squares / (N * M) - chains + apart


def _variance(within: _Sums, across: _Sums) -> float:
    """Variance over the images of one set of the estimate of g, with the noise of the means that it is made of."""
    return float(np.var(within.of_rows / (within.num - 1) - across.of_rows / across.num, ddof=1))

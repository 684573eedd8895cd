"""Density and coverage, which outliers of either set change little (Naeem et al. 2020).

The balls around real images reach to their k-th nearest neighbour, as for precision. Density counts in how many balls
a sample lies, so that the large ball of one outlier adds little. Coverage is the share of real images with a sample
nearby; it makes no balls around samples.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from ddpm_jax.metrics.neighbours import nearest, num_within
from ddpm_jax.metrics.precision_recall import checked_neighbours, radii


class DensityCoverage(NamedTuple):
    """Density, 0 or more, measures quality; coverage, in [0, 1], measures diversity."""

    density: float
    coverage: float


def density_coverage(real: ArrayLike, generated: ArrayLike, *, k: int = 5) -> DensityCoverage:
    r"""Density and coverage of samples $y_1, \dots, y_M$ ([Naeem et al. 2020](https://arxiv.org/abs/2002.09797)).

    $$ \text{density} = \frac{1}{k M} \sum_{j = 1}^M \sum_{i = 1}^N 1[\|y_j - x_i\| \le r_i], \qquad
    \text{coverage} = \frac{1}{N} \sum_{i = 1}^N 1[\min_j \|y_j - x_i\| \le r_i] $$

    where $r_i$ is the distance of the real image $x_i$ to its k-th nearest neighbour among the others. For equal
    distributions the expected density is 1, and the expected coverage $1 - 2^{-k}$ for large N = M.

    Args:
      real: `[N, D]` features of real images.
      generated: `[M, D]` features of samples; choose M = N, since coverage grows with M.
      k: the k-th nearest neighbour sets the radius of a ball, 1 or more.

    Raises:
      ValueError: k is below 1, a set has k points or fewer, or the numbers of features differ.
      UserError: a feature is not finite.
    """
    real, generated = checked_neighbours(real, generated, k)
    reach = radii(real, k)
    return DensityCoverage(
        density=float(np.mean(num_within(generated, real, reach)) / k),
        coverage=float(np.mean(nearest(real, generated, 1).distance[:, 0] <= reach)),
    )

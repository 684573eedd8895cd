r"""Memorisation: are samples nearer to training images than other images of the same distribution are?

The distance of a sample to its nearest training image says nothing by itself, since it depends on the features and on
the number of training images. Images held out of the same split are the measure: a model of the distribution draws
samples as far from the training images as they are, and a model that copies draws nearer ones.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from ddpm_jax.errors import UserError
from ddpm_jax.metrics.features import checked_pair
from ddpm_jax.metrics.intervals import Estimate, at_this_size, halves
from ddpm_jax.metrics.neighbours import nearest


class Memorisation(NamedTuple):
    """Distances to the nearest training image, of samples relative to held-out images."""

    ratio: Estimate
    """Near 1 for samples of the distribution, near 0 for copies; its `num_images` are those of samples and held out."""
    distance: np.ndarray
    """`[N]`, the distance of each sample to its nearest training image."""
    index: np.ndarray
    """`[N]`, which training image that is."""
    held_out_distance: np.ndarray
    """`[M]`, the distance of each held-out image to its nearest training image."""

    def closest_pairs(self, num: int) -> np.ndarray:
        """The pairs of a sample and its nearest training image, the closest pair first: `[num, 2]` indices."""
        order = np.argsort(self.distance, kind="stable")[:num]
        return np.stack([order, self.index[order]], axis=1)


def memorisation(
    generated: ArrayLike, held_out: ArrayLike, train: ArrayLike, *, num_divisions: int = 100, seed: int = 0
) -> Memorisation:
    r"""The ratio of the median distances to the nearest training image, of samples and of held-out images.

    $$ \text{ratio} = \frac{\operatorname{median}_j \min_i \|y_j - x_i\|}
    {\operatorname{median}_l \min_i \|h_l - x_i\|} $$

    for samples $y$, held-out images $h$ and training images $x$. Its interval is for other samples and held-out images
    with the same training images.

    Args:
      generated: `[N, D]` features of samples, N at least 2.
      held_out: `[M, D]` features of images of the same split that were not trained on, M at least 2.
      train: `[K, D]` features of all training images.
      num_divisions, seed: as for `intervals.halves`.

    Raises:
      ValueError: the shapes do not match.
      UserError: a set has too few images, a feature is not finite, or half of the held-out images are training images.
    """
    points, samples = checked_pair(np.asarray(train), np.asarray(generated))
    _, others = checked_pair(points, np.asarray(held_out))
    found = nearest(samples, points, 1)
    distance, index = found.distance[:, 0], found.index[:, 0]
    held_out_distance = nearest(others, points, 1).distance[:, 0]
    if np.median(held_out_distance) == 0:
        raise UserError("at least half of the held-out images are equal to training images: hold out other images")
    found_halves = halves(_ratio, distance, held_out_distance, num_divisions=num_divisions, seed=seed)
    return Memorisation(at_this_size(found_halves)[0], distance, index, held_out_distance)


def _ratio(distance: np.ndarray, held_out_distance: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(distance) / np.median(held_out_distance))

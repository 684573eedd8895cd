"""The digits as pixel features, and the images with which the benchmarks on digits compare samples."""

from typing import NamedTuple

import numpy as np

from ddpm_jax.data.digits import Digits
from ddpm_jax.metrics.frechet import frechet_distance, moments
from ddpm_jax.metrics.precision_recall import precision_recall

NUM = 500


class Quality(NamedTuple):
    """Precision, recall and Frechet distance of images."""

    precision: float
    recall: float
    frechet: float
    """On pixels in [-1, 1]; 0 or more, and less is better."""


def pixels(images: np.ndarray) -> np.ndarray:
    """Images `[N, H, W, C]` as features `[N, D]`."""
    return np.asarray(images, np.float32).reshape(len(images), -1)


def real(split: str) -> np.ndarray:
    """All images of a split, `[N, 8, 8, 1]` uint8."""
    source = Digits(split)
    return np.stack([source[i]["image"] for i in range(len(source))])


def reference() -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sets of 500 training digits, each `[500, 8, 8, 1]` uint8; samples are compared with the first."""
    train = real("train")
    order = np.random.default_rng(0).permutation(len(train))
    return train[order[:NUM]], train[order[NUM : 2 * NUM]]


def quality(images: np.ndarray) -> Quality:
    """Precision and recall (k = 3) and the Frechet distance of images `[N, 8, 8, 1]` against the 500 reference digits.

    Precision and recall do not depend on the scale of the pixels. The distance is that of pixels in [-1, 1], 127.5 grey
    values to 1, and is too large by a part that depends on N: compare distances of as many images only.
    """
    known, given = pixels(reference()[0]), pixels(images)
    distance = frechet_distance(moments(known / 127.5), moments(given / 127.5))
    return Quality(*precision_recall(known, given), distance)

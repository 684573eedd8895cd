"""The digits as pixel features, and the images with which the benchmarks on digits compare samples."""

import numpy as np

from ddpm_jax.data.digits import Digits
from ddpm_jax.metrics.precision_recall import PrecisionRecall, precision_recall

NUM = 500


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


def quality(images: np.ndarray) -> PrecisionRecall:
    """Precision and recall of images `[N, 8, 8, 1]` against the 500 reference digits, on pixels, with k = 3."""
    return precision_recall(pixels(reference()[0]), pixels(images))

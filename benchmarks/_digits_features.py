"""The digits as pixel features, and what the benchmarks on digits hold samples against."""

import numpy as np

from ddpm_jax.data.digits import Digits
from ddpm_jax.metrics.precision_recall import precision_recall

NUM = 500


def pixels(images):
    """Images `[N, H, W, C]` as features `[N, D]`."""
    return np.asarray(images, np.float32).reshape(len(images), -1)


def real(split):
    """All images of a split, `[N, 8, 8, 1]` uint8."""
    source = Digits(split)
    return np.stack([source[i]["image"] for i in range(len(source))])


def reference():
    """The digits that samples are held against: 500 of the training split, and 500 others of it."""
    train = real("train")
    order = np.random.default_rng(0).permutation(len(train))
    return train[order[:NUM]], train[order[NUM : 2 * NUM]]


def quality(images):
    """`PrecisionRecall` of images against the 500 reference digits, pixels, k = 3."""
    return precision_recall(pixels(reference()[0]), pixels(images))

"""Arrays of features, as every measure of this package takes them."""

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.errors import UserError


def checked(features: ArrayLike, what: str = "features", *, least: int = 1) -> np.ndarray:
    """Features `[N, D]` on the host, in float64 if they are given so and in float32 otherwise.

    Args:
      features: `[N, D]` real numbers, one row per image.
      what: what they are, for the messages.
      least: the least number of images, N.

    Raises:
      ValueError: the array is not `[N, D]` with D at least 1, or its elements are not real numbers.
      UserError: there are fewer images, or a feature is not finite.
    """
    array = np.asarray(features)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{what} must be [N, D], got {array.shape}")
    if array.dtype.kind in "cOSUM":
        raise ValueError(f"{what} must be real numbers, got {array.dtype}")
    if array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    if len(array) < least:
        raise UserError(f"{what}: {len(array)} images are too few; at least {least} are needed")
    if not (finite := np.isfinite(array).all(axis=1)).all():
        raise UserError(
            f"{what}: {np.sum(~finite):,} of {len(array):,} rows have values that are not finite, the first is row "
            f"{np.argmin(finite)}; check the images and the network that they come from"
        )
    return array


def checked_pair(real: ArrayLike, generated: ArrayLike, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, D]` of real images and `[M, D]` of generated images, each as `checked`.

    Raises:
      ValueError: the shapes are not `[N, D]` and `[M, D]`, or the elements are not real numbers.
      UserError: there are fewer images in one of the sets, or a feature is not finite.
    """
    shapes = np.shape(real), np.shape(generated)
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"features must be [N, D] and [M, D], got {shapes[0]} and {shapes[1]}")
    return checked(real, "real features", least=least), checked(generated, "generated features", least=least)

"""Resizing of images as the networks of the metrics expect it, each method to rounding as in its original.

Distances between distributions of features depend on how images are resized
([Parmar et al. 2022](https://arxiv.org/abs/2104.11222)), so every published protocol has a name. All methods are linear
and separable: a product with one matrix per axis.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray

INCEPTION_SIZE = 299
"""Height and width in pixels of the images that Inception takes."""


class Method(NamedTuple):
    """How an output pixel depends on the input pixels.

    Attributes:
      filter: weight of an input pixel as a function of its distance.
      centred: pixel i is at `i + 1/2`, so that the edges of both images coincide; if not, it is at `i`.
      antialiased: distances are in output pixels where the image becomes smaller.
    """

    filter: Callable[[np.ndarray], np.ndarray]
    centred: bool
    antialiased: bool


def triangle(distance: np.ndarray) -> np.ndarray:
    """The filter of linear interpolation, `max(0, 1 - |d|)`, of distances `[...]`."""
    return np.maximum(0, 1 - np.abs(distance))


def cubic(distance: np.ndarray) -> np.ndarray:
    r"""The filter of cubic convolution of distances `[...]`, with a = -1/2; 0 from a distance of 2 on (Keys 1981).

    $$ k(d) = (a + 2) |d|^3 - (a + 3) |d|^2 + 1 \quad (|d| \le 1), \qquad
       k(d) = a (|d|^3 - 5 |d|^2 + 8 |d| - 4) \quad (1 < |d| < 2) $$
    """
    a, d = -0.5, np.abs(distance)
    near, far = ((a + 2) * d - (a + 3)) * d**2 + 1, a * (((d - 5) * d + 8) * d - 4)
    return np.where(d < 1, near, np.where(d < 2, far, 0))


METHODS = {
    "bilinear_tf1": Method(triangle, centred=False, antialiased=False),  # TensorFlow 1's default
    "bilinear": Method(triangle, centred=True, antialiased=False),  # PyTorch's `interpolate`
    "bicubic_antialiased": Method(cubic, centred=True, antialiased=True),  # Pillow's and torchvision's
}


def resize_matrix(n_in: int, n_out: int, method: str) -> np.ndarray:
    r"""The matrix of a resize along one axis, `[n_out, n_in]` float64, whose rows sum to 1.

    $$ W_{ij} = k\left(\frac{j - s_i}{r}\right) \Big/ \sum_{j'} k\left(\frac{j' - s_i}{r}\right) $$

    with the filter k, the source position `s_i = (i + 1/2) n_in / n_out - 1/2`, or `i n_in / n_out` if pixels are not
    centred, and the width `r = max(1, n_in / n_out)`, or 1 without antialiasing.

    Args:
      n_in: pixels of the image along the axis.
      n_out: pixels of the result.
      method: a name in `METHODS`.

    Raises:
      ValueError: there is no method of that name.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    filter, centred, antialiased = METHODS[method]
    scale, offset = n_in / n_out, 0.5 if centred else 0
    source = (np.arange(n_out) + offset) * scale - offset
    width = max(1.0, scale) if antialiased else 1.0
    weights = filter((np.arange(n_in) - source[:, None]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(images: AnyArray, size: int, method: str) -> jax.Array:
    """Images `[B, H, W, C]` of any numbers as float32 `[B, size, size, C]`, neither rounded nor clipped.

    Args:
      images: the images.
      size: height and width of the result in pixels.
      method: as for `resize_matrix`.
    """
    rows, columns = (resize_matrix(n, size, method).astype(np.float32) for n in images.shape[1:3])
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return product("yh,bhxc->byxc", rows, product("xw,bhwc->bhxc", columns, images.astype(jnp.float32)))


def _torch_fidelity(images: AnyArray) -> jax.Array:
    return (resized(images, INCEPTION_SIZE, "bilinear_tf1") - 128) / 128


def _pytorch_fid(images: AnyArray) -> jax.Array:
    return 2 * resized(images, INCEPTION_SIZE, "bilinear") / 255 - 1


def _clean_fid(images: AnyArray) -> jax.Array:
    return (jnp.clip(resized(images, INCEPTION_SIZE, "bicubic_antialiased"), 0, 255) - 128) / 128


PROTOCOLS: dict[str, Callable[[AnyArray], jax.Array]] = {
    "torch_fidelity": _torch_fidelity,  # also that of the original FID and of ADM's evaluator
    "pytorch_fid": _pytorch_fid,
    "clean_fid": _clean_fid,
}
"""Functions from images `[B, H, W, 3]` in [0, 255] to the input `[B, 299, 299, 3]` of Inception, about [-1, 1]."""


def inception_input(images: AnyArray, protocol: str) -> jax.Array:
    """Resizes and normalises images for Inception.

    Args:
      images: `[B, H, W, 3]` in [0, 255], uint8 or float.
      protocol: a name in `PROTOCOLS`.

    Returns:
      `[B, 299, 299, 3]` float32, about [-1, 1].

    Raises:
      ValueError: the images do not have that shape, or there is no protocol of that name.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [B, H, W, 3], got {list(images.shape)}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    return PROTOCOLS[protocol](images)

"""Array vocabulary shared by everything: broadcasting of per-image scalars, noise by per-image keys, named streams.

Randomness in this project is stateless. One root key is folded with a step number and the name of a stream
(`stream`), and noise is drawn with one key per image (`noise_like`), so that the noise of an image does not depend on
the batch, the device or the host that holds it. Read next: `schedules.py`.
"""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array: TypeAlias = jax.Array
"""An array of JAX, traced or not; also the type of random keys."""

AnyArray: TypeAlias = jax.Array | np.ndarray
"""An array of JAX or of NumPy, for parameters whose shape or dtype is read."""

Real: TypeAlias = jax.Array | np.ndarray | np.floating | float
"""Real numbers in an array of JAX or of NumPy, or one number."""


def expand_like(a: ArrayLike, x: AnyArray) -> Array:
    """Appends axes of size one to a, which is `[]` or `[B]`, until it broadcasts against x `[B, ...]`."""
    a = jnp.asarray(a)
    if a.ndim:
        chex.assert_rank(a, 1)
        chex.assert_equal_shape_prefix([a, x], 1)
    return a.reshape(a.shape + (1,) * (jnp.ndim(x) - a.ndim)) if a.ndim else a


def pixel_axes(x: AnyArray) -> tuple[int, ...]:
    """All axes of x `[B, ...]` except the first, which counts the images."""
    return tuple(range(1, x.ndim))


def stream(key: Array, name: str) -> Array:
    """The key of the named random stream below `key`: the same name gives the same key, whatever was drawn before.

    A key from which streams are derived must not be consumed itself: its draws would correlate with those of the
    streams.

    Args:
      key: one key `[]`, or `[B]` keys, each of which gets its stream.
      name: name of the stream.
    """
    if key.ndim:
        return jax.vmap(partial(stream, name=name))(key)
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def image_keys(key: Array, indices: AnyArray | Sequence[int]) -> Array:
    """One key per image, `fold_in(key, index)`: `[B]` keys for integer indices `[B]`."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.asarray(indices))


def noise_like(keys: Array, x: AnyArray) -> Array:
    """Standard normal noise of x's shape and dtype.

    Args:
      keys: `[B]` keys, one per image (the noise of image i depends on `keys[i]` alone), or one key `[]` for the whole
        array.
      x: `[B, ...]`.
    """
    chex.assert_rank(keys, {0, 1})
    if keys.ndim == 0:
        return jax.random.normal(keys, x.shape, x.dtype)
    chex.assert_equal_shape_prefix([keys, x], 1)
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)

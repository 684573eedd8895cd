"""The convolutions of the networks, whose gradients take as long inside a loop as outside of one, also on a CPU.

JAX's gradients of a convolution are convolutions whose axes are in another order. XLA's CPU backend brings them into
the order of its library outside of loops only; inside of one they take about forty times as long. Here both are written
as convolutions of NHWC images with HWIO kernels. On other devices they are those of JAX. Read next: `layers.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_AXES = ("NHWC", "HWIO", "NHWC")
_PLAIN = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "precision": None}
Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """The convolution of images with a kernel, for `nn.Conv(conv_general_dilated=convolution)`.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[h, w, C, D]`, of the dtype of x.
      strides: of the rows and of the columns.
      padding: "SAME", "VALID", or the numbers of zeros before and after the rows and the columns.
      options: further arguments of `lax.conv_general_dilated`, which must ask for these axes and for nothing else.

    Returns:
      `[B, H', W', D]`, with the dtype of x.

    Raises:
      ValueError: the options ask for dilation, for groups of channels or for a precision.
    """
    for name, value in _PLAIN.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name}={options[name]} is not supported, only {value}")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _PRIMITIVE.bind(x, kernel, strides=tuple(strides), pads=pads)


def _by_xla(x: jax.Array, kernel: jax.Array, *, strides: tuple[int, int], pads: Pads) -> jax.Array:
    """The convolution as XLA has it."""
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_AXES)


def _image_gradient(
    gradient: jax.Array, x: ad.UndefinedPrimal, kernel: jax.Array, *, strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """The transpose with respect to the images: the convolution with the kernel in reverse, its channels exchanged."""
    shape = x.aval.shape

    def written_out(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
        spread, sizes = _spread(gradient, strides), kernel.shape[:2]
        around = tuple(
            (size - 1 - before, side + before - now)
            for size, side, now, (before, _) in zip(sizes, shape[1:3], spread.shape[1:3], pads, strict=True)
        )
        return convolution(spread, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), around)

    def by_jax(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
        forward = partial(_by_xla, kernel=kernel, strides=strides, pads=pads)
        return jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, x.aval.dtype))(gradient)[0]

    return lax.platform_dependent(gradient, kernel, cpu=written_out, default=by_jax)


def _kernel_gradient(
    gradient: jax.Array, x: jax.Array, kernel: ad.UndefinedPrimal, *, strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """The transpose with respect to the kernel: the images of each channel, convolved with the gradients."""
    shape = kernel.aval.shape

    def written_out(gradient: jax.Array, x: jax.Array) -> jax.Array:
        spread = _spread(gradient, strides).transpose(1, 2, 0, 3)  # [h, w, B, D], as a kernel over the images
        around = tuple(
            (before, size + now - 1 - side - before)
            for size, side, now, (before, _) in zip(shape[:2], x.shape[1:3], spread.shape[:2], pads, strict=True)
        )
        return convolution(x.transpose(3, 1, 2, 0), spread, (1, 1), around).transpose(1, 2, 0, 3)

    def by_jax(gradient: jax.Array, x: jax.Array) -> jax.Array:
        forward = partial(_by_xla, x, strides=strides, pads=pads)
        return jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, kernel.aval.dtype))(gradient)[0]

    return lax.platform_dependent(gradient, x, cpu=written_out, default=by_jax)


def _spread(gradient: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """The gradient with `stride - 1` zeros between its rows and between its columns, as without strides."""
    if strides == (1, 1):
        return gradient
    between = [(0, 0, 0), *((0, 0, stride - 1) for stride in strides), (0, 0, 0)]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), between)


def _abstract(x: Any, kernel: Any, *, strides: tuple[int, int], pads: Pads) -> Any:
    """The type of the result, which differs from that of the images in its shape."""
    sides = (
        (side + sum(pad) - size) // stride + 1
        for side, size, stride, pad in zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
    )
    return x.update(shape=(x.shape[0], *sides, kernel.shape[3]), weak_type=False)


def _batched(arguments: Sequence[jax.Array], axes: Sequence[int | None], **options: Any) -> tuple[jax.Array, int]:
    """The convolution of several batches: one of all their images, or, with several kernels, what JAX makes of it."""
    (x, kernel), (of_images, of_kernels) = arguments, axes
    if of_images is None or of_kernels is not None:
        return jax.vmap(partial(_by_xla, **options), axes)(x, kernel), 0
    x = jnp.moveaxis(x, of_images, 0)
    result = _PRIMITIVE.bind(x.reshape(-1, *x.shape[2:]), kernel, **options)
    return result.reshape(*x.shape[:2], *result.shape[1:]), 0


_PRIMITIVE = Primitive("convolution")
_PRIMITIVE.def_impl(jax.jit(_by_xla, static_argnames=("strides", "pads")))
_PRIMITIVE.def_abstract_eval(_abstract)
ad.defbilinear(_PRIMITIVE, _image_gradient, _kernel_gradient)
batching.primitive_batchers[_PRIMITIVE] = _batched
mlir.register_lowering(_PRIMITIVE, mlir.lower_fun(_by_xla, multiple_results=False))

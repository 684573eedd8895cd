"""The convolutions of the networks, whose gradients take as long inside a loop as outside of one, also on a CPU.

JAX's gradients of a convolution are convolutions whose axes are in another order. XLA's CPU backend brings them into
the order of its library outside of loops only; inside of one they take about forty times as long. Here both are written
as convolutions of NHWC images with HWIO kernels. On other devices they are those of JAX. Read next: `layers.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

_AXES = ("NHWC", "HWIO", "NHWC")
_PLAIN = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "batch_group_count": 1}
_PLAIN |= {"preferred_element_type": None, "out_sharding": None}
_transposed_by_jax = ad.primitive_transposes[lax.conv_general_dilated_p]


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """The convolution of images with a kernel, for `nn.Conv(conv_general_dilated=convolution)`.

    It is that of `lax.conv_general_dilated` in its values, types and errors, and differs from it in the gradients' form
    alone. Where that form is not for it (other axes, dilation, groups, arrays without elements, axes of a mesh that are
    explicit or along which the operands vary inside `jax.shard_map`), it is JAX's own with its gradients.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[h, w, C, D]`, of the dtype of x.
      strides: of the rows and of the columns.
      padding: "SAME", "VALID", or the numbers of zeros before and after the rows and the columns.
      options: further arguments of `lax.conv_general_dilated`; the axes are these unless it names others.

    Returns:
      `[B, H', W', D]`, with the dtype of x.
    """
    options = {"dimension_numbers": _AXES} | options
    by_jax = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    traced = jax.make_jaxpr(by_jax)(x, kernel)  # the parameters and the type are as JAX has them
    params = traced.eqns[-1].params
    types: list[Any] = [jax.typeof(x), jax.typeof(kernel), *traced.out_avals]
    return _PRIMITIVE.bind(x, kernel, **params) if _is_plain(params, types) else by_jax(x, kernel)


def _is_plain(params: dict[str, Any], types: list[Any]) -> bool:
    """Whether the gradients of a convolution with these parameters and types may be written as here."""
    shapes = [aval.shape for aval in types]
    return (
        all(len(shape) == 4 and 0 not in shape for shape in shapes)
        and params["dimension_numbers"] == lax.conv_dimension_numbers(shapes[0], shapes[1], _AXES)
        and all(params[name] == value for name, value in _PLAIN.items())
        and all(aval.manual_axis_type.empty for aval in types)
        and all(AxisType.Explicit not in aval.sharding.mesh.axis_types for aval in types)
    )


def _by_jax(x: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    """The convolution as JAX has it."""
    return lax.conv_general_dilated_p.bind(x, kernel, **params)


def _image_gradient(gradient: jax.Array, x: ad.UndefinedPrimal, kernel: jax.Array, **params: Any) -> jax.Array:
    """The transpose with respect to the images: the convolution with the kernel in reverse, its channels exchanged."""
    shape = x.aval.shape

    def written_out(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
        spread, pads = _spread(gradient, params["window_strides"]), params["padding"]
        around = tuple(
            (size - 1 - before, side + before - now)
            for size, side, now, (before, _) in zip(kernel.shape[:2], shape[1:3], spread.shape[1:3], pads, strict=True)
        )
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return convolution(spread, flipped, (1, 1), around, precision=params["precision"])

    def by_jax(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
        return _transposed_by_jax(gradient, ad.UndefinedPrimal(x.aval), kernel, **params)[0]

    return lax.platform_dependent(gradient, kernel, cpu=written_out, default=by_jax)


def _kernel_gradient(gradient: jax.Array, x: jax.Array, kernel: ad.UndefinedPrimal, **params: Any) -> jax.Array:
    """The transpose with respect to the kernel: the images of each channel, convolved with the gradients."""
    shape = kernel.aval.shape

    def written_out(gradient: jax.Array, x: jax.Array) -> jax.Array:
        spread, pads = _spread(gradient, params["window_strides"]), params["padding"]
        spread = spread.transpose(1, 2, 0, 3)  # [h, w, B, D], as a kernel over the images
        around = tuple(
            (before, size + now - 1 - side - before)
            for size, side, now, (before, _) in zip(shape[:2], x.shape[1:3], spread.shape[:2], pads, strict=True)
        )
        images = x.transpose(3, 1, 2, 0)
        return convolution(images, spread, (1, 1), around, precision=params["precision"]).transpose(1, 2, 0, 3)

    def by_jax(gradient: jax.Array, x: jax.Array) -> jax.Array:
        return _transposed_by_jax(gradient, x, ad.UndefinedPrimal(kernel.aval), **params)[1]

    return lax.platform_dependent(gradient, x, cpu=written_out, default=by_jax)


def _spread(gradient: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """The gradient with `stride - 1` zeros between its rows and between its columns, as without strides."""
    if strides == (1, 1):
        return gradient
    between = [(0, 0, 0), *((0, 0, stride - 1) for stride in strides), (0, 0, 0)]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), between)


def _batched(arguments: Sequence[jax.Array], axes: Sequence[int | None], **params: Any) -> tuple[jax.Array, int]:
    """The convolution of several batches: one of all their images, or, with several kernels, what JAX makes of it."""
    (x, kernel), (of_images, of_kernels) = arguments, axes
    if of_images is None or of_kernels is not None or 0 in x.shape:
        return jax.vmap(partial(_by_jax, **params), axes)(x, kernel), 0
    x = jnp.moveaxis(x, of_images, 0)
    result = _PRIMITIVE.bind(x.reshape(-1, *x.shape[2:]), kernel, **params)
    return result.reshape(*x.shape[:2], *result.shape[1:]), 0


_PRIMITIVE = Primitive("convolution")
_PRIMITIVE.def_impl(_by_jax)
_PRIMITIVE.def_effectful_abstract_eval(lax.conv_general_dilated_p.abstract_eval)
ad.defbilinear(_PRIMITIVE, _image_gradient, _kernel_gradient)
batching.primitive_batchers[_PRIMITIVE] = _batched
mlir.register_lowering(_PRIMITIVE, mlir.lower_fun(_by_jax, multiple_results=False))

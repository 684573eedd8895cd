"""The convolution of the networks and its gradients, against those of JAX, which other devices than CPUs run."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from ddpm_jax.models.convolution import convolution

by_jax = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
CASES = [  # batch, height, width, channels, channels of the result; sides of the kernel, strides, padding
    ((2, 16, 18, 16, 8), (3, 3), (1, 1), "SAME"),
    ((1, 7, 5, 4, 3), (3, 3), (1, 1), "SAME"),
    ((1, 1, 1, 4, 4), (3, 3), (1, 1), "SAME"),
    ((2, 18, 4, 16, 8), (3, 3), (2, 2), "SAME"),
    ((2, 6, 16, 8, 16), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((2, 7, 9, 8, 16), (3, 3), (2, 2), ((0, 1), (1, 0))),
    ((2, 8, 9, 3, 4), (5, 2), (1, 3), "VALID"),
]


def drawn(sizes, sides, dtype=np.float32):
    rng, (*images, channels, out) = np.random.default_rng(0), sizes
    x = rng.standard_normal((*images, channels))
    kernel = rng.standard_normal((*sides, channels, out)) / np.sqrt(np.prod(sides) * channels)
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def with_gradients(function, x, kernel, strides, padding):
    result, pull = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding), x, kernel)
    return result, *pull(jnp.asarray(np.random.default_rng(1).standard_normal(result.shape), result.dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_both_gradients_are_those_of_jax(case):
    sizes, sides, *rest = case
    ours, exact = (with_gradients(function, *drawn(sizes, sides), *rest) for function in (convolution, by_jax))
    for value, other in zip(ours, exact, strict=True):
        assert value.shape == other.shape
        assert np.linalg.norm(value - other) < 1e-6 * np.linalg.norm(other)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_it_can_be_differentiated_twice_and_both_ways(strides, x64):
    x, kernel = drawn((1, 4, 5, 2, 3), (3, 3), np.float64)
    check_grads(lambda x, kernel: convolution(x, kernel, strides, "SAME"), (x, kernel), order=2)


def test_only_linear_maps_of_the_images_are_transposed_without_their_values():
    """As `jax.linearize` does in the trace of a likelihood."""
    x, kernel = drawn((2, 4, 4, 3, 3), (3, 3))
    value, push = jax.linearize(lambda x: convolution(x, kernel, (1, 1), "SAME"), x)
    np.testing.assert_array_equal(value, push(x))
    (pulled,) = jax.linear_transpose(push, x)(value)
    np.testing.assert_allclose(jnp.vdot(pulled, x), jnp.vdot(value, value), rtol=1e-5)


@pytest.mark.parametrize(("x_axis", "kernel_axis"), [(0, None), (2, None), (None, 0), (1, 0)])
def test_a_batch_of_convolutions_is_each_of_them(x_axis, kernel_axis):
    rng, axes = np.random.default_rng(0), (x_axis, kernel_axis)
    batches = [
        rng.standard_normal(shape if axis is None else (*shape[:axis], 3, *shape[axis:])).astype(np.float32)
        for shape, axis in zip([(2, 4, 5, 3), (3, 3, 3, 4)], axes, strict=True)
    ]
    both = jax.vmap(lambda x, kernel: convolution(x, kernel, (1, 1), "SAME"), axes)(*batches)
    for i, result in enumerate(both):
        pairs = zip(batches, axes, strict=True)
        one = [jnp.asarray(batch if axis is None else batch.take(i, axis)) for batch, axis in pairs]
        np.testing.assert_allclose(result, convolution(*one, (1, 1), "SAME"), atol=1e-5)


def gradients(function):
    """Of a loss with two convolutions, with respect to the images and to the kernel."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(function(jnp.sin(function(x, kernel, (1, 1), "SAME")), kernel, (2, 2), "SAME")))

    return jax.grad(loss, (0, 1))


def convolutions(function, platform):
    """The axes and windows of the convolutions of a program for a platform."""
    lowered = jax.jit(function).trace(*drawn((2, 8, 8, 4, 4), (3, 3))).lower(lowering_platforms=(platform,))
    return sorted(re.findall(r"dim_numbers = .*?}", lowered.as_text()))


def test_other_devices_run_what_jax_makes_of_it():
    ours, theirs = (convolutions(gradients(function), "tpu") for function in (convolution, by_jax))
    assert len(ours) == 6
    assert ours == theirs


def test_on_a_cpu_a_gradient_in_a_loop_has_the_axes_of_the_library():
    """In any other order XLA runs it by a loop over the pixels, which takes about forty times as long."""

    def steps(x, kernel):
        return lax.scan(lambda x, _: (x - gradients(convolution)(x, kernel)[0], None), x, length=3)[0]

    found = convolutions(steps, "cpu") + convolutions(gradients(convolution), "cpu")
    assert len(found) == 4 + 6
    assert all(one.startswith("dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],") for one in found)


def axes_of_a_mesh(kind):
    """A mesh of two devices."""
    return jax.make_mesh((2,), ("devices",), (kind,), devices=jax.devices()[:2])


def summed(function, *operands):
    return jnp.sum(jnp.sin(function(*operands, (2, 2), "SAME")))


@pytest.mark.parametrize("of_kernel", [P(), P(None, None, None, "devices")], ids=["replicated", "varying"])
def test_inside_a_map_over_devices_gradients_are_those_of_jax(of_kernel):
    """With `check_vma`, for which types say along which axes of the mesh the values vary."""
    mesh, operands = axes_of_a_mesh(AxisType.Auto), drawn((2, 6, 5, 3, 4), (3, 3))
    specs = (P("devices"), of_kernel)

    def inside(function):
        gradients = jax.grad(partial(summed, function), (0, 1))
        return jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=specs))

    def outside(function):
        mapped = jax.shard_map(
            lambda *operands: lax.psum(summed(function, *operands), "devices"), mesh=mesh, in_specs=specs, out_specs=P()
        )
        return jax.jit(jax.grad(mapped, (0, 1)))

    for gradients in (inside, outside):
        for value, other in zip(gradients(convolution)(*operands), gradients(by_jax)(*operands), strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)


def test_a_result_that_differs_between_devices_is_not_taken_for_a_replicated_one():
    x, kernel = drawn((2, 4, 4, 3, 4), (3, 3))
    specs = {"in_specs": (P(), P(None, None, None, "devices")), "out_specs": P()}
    mapped = partial(jax.shard_map, mesh=axes_of_a_mesh(AxisType.Auto), **specs)
    with pytest.raises(ValueError, match=r"replicated|varying|out_specs"):
        mapped(lambda x, kernel: convolution(x, kernel, (1, 1), "SAME"))(x, kernel)


def test_gradients_with_an_explicit_sharding_are_those_of_jax():
    mesh = axes_of_a_mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        x, kernel = drawn((2, 6, 5, 3, 4), (3, 3))
        x = jax.device_put(x, NamedSharding(mesh, P("devices")))
        ours, exact = (jax.jit(jax.grad(partial(summed, f), (0, 1)))(x, kernel) for f in (convolution, by_jax))
        for value, other in zip(ours, exact, strict=True):
            assert value.sharding == other.sharding
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)


def test_the_precision_is_that_where_the_convolution_is_called():
    def highest(function, x, kernel):
        with jax.default_matmul_precision("highest"):
            return function(x, kernel, (1, 1), "SAME")

    def precisions(function, platform="tpu"):
        with_gradients = jax.value_and_grad(lambda *both: jnp.sum(jnp.sin(highest(function, *both))), (0, 1))
        traced = jax.jit(with_gradients).trace(*drawn((2, 4, 4, 3, 4), (3, 3)))
        return traced.lower(lowering_platforms=(platform,)).as_text().count("precision HIGHEST")

    assert precisions(convolution) == precisions(by_jax) == 6
    assert precisions(convolution, "cpu") == 6


OPTIONS = [
    {"rhs_dilation": (2, 2)},
    {"feature_group_count": 2},
    {"batch_group_count": 2},
    {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    {"preferred_element_type": np.float64},
    {"precision": "highest"},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_options_do_what_they_do_in_jax(option, x64):
    x, kernel = drawn((4, 6, 4, 4, 6), (3, 3))
    if "feature_group_count" in option:
        kernel = kernel[:, :, :2]
    if "dimension_numbers" in option:
        x, kernel = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | option
    theirs = partial(lax.conv_general_dilated, **options)
    ours = partial(convolution, **option)
    if "preferred_element_type" in option:  # whose gradients JAX does not have
        assert ours(x, kernel, (1, 1), "SAME").dtype == np.float64
        return
    for value, other in zip(*(with_gradients(f, x, kernel, (1, 1), "SAME") for f in (ours, theirs)), strict=True):
        assert value.dtype == other.dtype
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)


def test_a_wrong_number_of_channels_is_found_by_the_shapes():
    x, kernel = (jax.ShapeDtypeStruct(shape, np.float32) for shape in [(1, 4, 4, 3), (3, 3, 2, 4)])
    with pytest.raises(ValueError, match="feature dimension size"):
        jax.eval_shape(lambda x, kernel: convolution(x, kernel, (1, 1), "SAME"), x, kernel)


@pytest.mark.parametrize("sizes", [(2, 1, 1, 3, 4), (0, 4, 4, 3, 4), (2, 4, 4, 3, 0)], ids=str)
def test_an_empty_result_is_that_of_jax(sizes):
    ours, exact = (with_gradients(f, *drawn(sizes, (3, 3)), (1, 1), "VALID") for f in (convolution, by_jax))
    assert 0 in ours[0].shape
    for value, other in zip(ours, exact, strict=True):
        np.testing.assert_array_equal(value, other)

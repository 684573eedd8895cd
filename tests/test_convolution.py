"""The convolution of the networks and its gradients, against those of JAX, which other devices than CPUs run."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
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


@pytest.mark.parametrize("option", [{"rhs_dilation": (2, 2)}, {"feature_group_count": 2}, {"precision": "highest"}])
def test_what_it_cannot_do_is_refused(option):
    with pytest.raises(ValueError, match=rf"^{next(iter(option))}=.* is not supported"):
        convolution(*drawn((1, 4, 4, 2, 2), (3, 3)), (1, 1), "SAME", **option)

"""DINOv2: its features against recorded ones, the interpolation of its positions, and what it takes for an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import dinov2
from support.networks import equations
from support.weights import GOLDEN, assert_agree

from ddpm_jax.convert.dinov2 import read_dinov2
from ddpm_jax.models.dinov2 import DINOv2, interpolated, normalised, position_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")
RECORDED = np.load(GOLDEN / "dinov2.npz")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """The small network with its drawn weights, as a jitted function of images."""
    network, params, *_ = read_dinov2(dinov2.write(tmp_path_factory.mktemp("weights") / "drawn.safetensors"))
    return jax.jit(functools.partial(network.apply, {"params": params}))


@pytest.mark.parametrize(("height", "width"), dinov2.SIZES)
def test_features_are_those_of_transformers_with_the_originals_positions(features, height, width):
    out = features(dinov2.images(height, width))
    assert out.dtype == jnp.float32
    assert_agree("features", out, RECORDED[f"out_{height}x{width}"])


def test_features_of_an_image_do_not_depend_on_the_batch(features):
    x = dinov2.images(56, 56)
    np.testing.assert_allclose(features(x)[1:], features(x[1:]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 37), (5, 40)])
def test_positions_are_interpolated_as_torch_does_it(height, width):
    """With the original's scale: 16x16 patches are 224x224 pixels; along an axis of 37 patches none keeps its place."""
    z = dinov2.normal("positions", (37, 37))
    out = position_weights(height, 37) @ z @ position_weights(width, 37).T
    np.testing.assert_allclose(out, RECORDED[f"positions_{height}x{width}"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [1, 16, 37, 100])
def test_positions_are_interpolated_as_the_installed_torch_does_it(size):
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    scale = ((size + 0.1) / 37, 1.0)
    out = torch.nn.functional.interpolate(torch.eye(37).double()[None, None], scale_factor=scale, mode="bicubic")
    np.testing.assert_allclose(position_weights(size, 37), out[0, 0], rtol=0, atol=1e-13)


def test_the_class_tokens_position_stays_and_the_patches_are_in_rows():
    z = np.append(7.0, dinov2.normal("positions", (37, 37))).astype(np.float32).reshape(1, -1, 1)
    out = np.asarray(interpolated(jnp.asarray(z), 16, 37))
    assert out.shape == (1, 1 + 16 * 37, 1)
    assert out[0, 0] == 7.0
    np.testing.assert_allclose(out[0, 1:, 0], RECORDED["positions_16x37"].ravel(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(interpolated(jnp.asarray(z), 37, 37), z)


def test_images_are_normalised_by_the_mean_and_deviation_of_imagenet():
    colours = np.array([[0, 0, 0], [255, 255, 255], [124, 116, 104]], np.uint8)
    expected = [[-2.117904, -2.035714, -1.804444], [2.248908, 2.428571, 2.64], [0.005566, -0.004902, 0.008192]]
    out = normalised(colours)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 28, 27, 3), (1, 27, 28, 3), (1, 28, 28, 1), (28, 28, 3)])
def test_sides_and_colours_of_images_are_checked(shape):
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\] with sides divisible by 14, got"):
        jax.eval_shape(DINOv2(width=64, depth=1, heads=1).init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("network", "count"),
    [(DINOv2(), 86_580_480 - 768), (DINOv2(width=1024, depth=24, heads=16), 304_368_640 - 1024)],
    ids=["ViT-B/14", "ViT-L/14"],
)
def test_the_published_sizes_have_their_parameters(network, count):
    """The numbers of the published files, less their mask token."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_products_are_in_full_precision_on_every_device():
    """The patches, the positions twice, queries with keys and values, their weighted sum, and four linear maps."""
    network, x = DINOv2(width=64, depth=1, heads=1, grid=7), jnp.zeros((1, 28, 28, 3))
    ops = equations(network.apply, jax.eval_shape(network.init, jax.random.key(0), x), x)
    products = [op for op in ops if op.primitive.name in ("dot_general", "conv_general_dilated")]
    assert len(products) == 9
    assert {op.params["precision"] for op in products} == {(jax.lax.Precision.HIGHEST,) * 2}

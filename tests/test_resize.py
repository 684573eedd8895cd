"""Every resize against the function that it stands for: TensorFlow 1's formula, PyTorch, Pillow."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.weights import GOLDEN

from ddpm_jax.metrics.resize import METHODS, PROTOCOLS, inception_input, resize_matrix, resized

SIZES = [8, 28, 32, 64, 299, 512]
FLOAT32, FLOAT64 = 3e-4, 1e-9  # what rounding may add up to for grey values to 255


def pictures(height, width, batch=1):
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), np.uint8)


def by_matrices(image, size, method):
    """The image `[H, W, C]` as `[size, size, C]`, in float64."""
    rows, columns = (resize_matrix(n, size, method) for n in image.shape[:2])
    return np.einsum("yh,xw,hwc->yxc", rows, columns, image, optimize=True)


def close(out, expected, rounding):
    np.testing.assert_allclose(out, expected, rtol=0, atol=rounding)


def tensorflow_1(image, size):
    """The loop of TensorFlow 1's kernel for `align_corners=False`, in float64."""
    height, width, channels = image.shape
    image, out = image.astype(np.float64), np.empty((size, size, channels))
    for y in range(size):
        for x in range(size):
            at_y, at_x = y * height / size, x * width / size
            top, left = math.floor(at_y), math.floor(at_x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (at_x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (at_x - left)
            out[y, x] = upper + (lower - upper) * (at_y - top)
    return out


def pillow(image, size):
    """The bicubic resize of each channel as floats, as clean-fid has it."""
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(image.shape[-1])]
    return np.stack([np.asarray(one.resize((size, size), Image.Resampling.BICUBIC)) for one in channels], axis=-1)


def torch_interpolate(image, size, **options):
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    x = torch.tensor(image).permute(2, 0, 1)[None].double()  # in which it computes the positions too
    out = torch.nn.functional.interpolate(x, (size, size), align_corners=False, **options)
    return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 5), (5, 5), (7, 20), (20, 7), (512, 299)])
def test_rows_of_a_matrix_sum_to_1_and_the_same_size_is_the_identity(method, n_in, n_out):
    matrix = resize_matrix(n_in, n_out, method)
    assert matrix.shape == (n_out, n_in)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-14)
    if n_in == n_out:
        np.testing.assert_array_equal(matrix, np.eye(n_in))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 64), (28, 32, 75), (64, 64, 28), (75, 40, 75)])
def test_bilinear_tf1_is_the_loop_of_tensorflow_1(height, width, size):
    (image,) = pictures(height, width)
    close(by_matrices(image, size, "bilinear_tf1"), tensorflow_1(image, size), FLOAT64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", SIZES)
def test_bicubic_is_pillows(size, width):
    (image,) = pictures(40, width)
    close(by_matrices(image, size, "bicubic_antialiased"), pillow(image, size), FLOAT32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", SIZES)
def test_bilinear_is_torchs(size, width):
    (image,) = pictures(40, width)
    close(by_matrices(image, size, "bilinear"), torch_interpolate(image, size, mode="bilinear"), FLOAT64)


@pytest.mark.parametrize("width", SIZES)
def test_bicubic_is_torchs_with_antialiasing(width):
    (image,) = pictures(40, width)
    expected = torch_interpolate(image, 224, mode="bicubic", antialias=True)
    close(by_matrices(image, 224, "bicubic_antialiased"), expected, FLOAT64)


@pytest.mark.parametrize("size", [7, 37])
def test_bilinear_is_what_torch_gave(size):
    recorded = np.load(GOLDEN / "resize.npz")
    close(resized(recorded["x"], size, "bilinear"), recorded[f"bilinear_{size}"], FLOAT32)


@pytest.mark.parametrize("method", METHODS)
def test_the_device_multiplies_by_the_matrices(method):
    images = pictures(40, 24, batch=2)
    out = resized(images, 30, method)
    assert out.dtype == jnp.float32
    for image, one in zip(images, out, strict=True):
        close(one, by_matrices(image, 30, method), FLOAT32)


def test_each_protocol_resizes_and_normalises_as_its_original():
    images = pictures(9, 11)
    black_and_white = np.where(images < 128, np.uint8(0), np.uint8(255))  # where a bicubic overshoots
    overshoot = pillow(black_and_white[0], 299)
    assert overshoot.min() < -1
    assert overshoot.max() > 256
    expected = {
        "torch_fidelity": (np.asarray(resized(black_and_white, 299, "bilinear_tf1"))[0] - 128) / 128,
        "pytorch_fid": 2 * np.asarray(resized(black_and_white / np.float32(255), 299, "bilinear"))[0] - 1,
        "clean_fid": (overshoot.clip(0, 255) - 128) / 128,
    }
    assert expected.keys() == PROTOCOLS.keys()
    for protocol, value in expected.items():
        out = inception_input(black_and_white, protocol)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out[0], value, rtol=0, atol=1e-5, err_msg=protocol)
        np.testing.assert_array_equal(inception_input(jnp.asarray(black_and_white, jnp.float32), protocol), out)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resize_matrix(3, 4, "nearest"), "method must be one of bilinear_tf1, bilinear, bicubic_antialiased"),
        (lambda: inception_input(np.zeros((2, 8, 8, 3)), "fid"), "protocol must be one of torch_fidelity, pytorch_fid"),
        (lambda: inception_input(np.zeros((2, 8, 8, 1)), "clean_fid"), r"must be \[B, H, W, 3\], got \[2, 8, 8, 1\]"),
        (lambda: inception_input(np.zeros((8, 8, 3)), "clean_fid"), r"must be \[B, H, W, 3\], got \[8, 8, 3\]"),
    ],
)
def test_what_cannot_be_resized_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Broadcasting, and randomness that belongs to an image or a name and to nothing else."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.arrays import expand_like, image_keys, noise_like, stream

KEY = jax.random.key(7)


def test_a_number_per_image_scales_its_image_only():
    x = np.arange(24.0).reshape(2, 3, 2, 2) + 1
    scaled = expand_like(np.array([1.0, 10.0]), x) * x
    np.testing.assert_array_equal(scaled, np.stack([x[0], 10 * x[1]]))


@pytest.mark.parametrize("shape", [(2,), (2, 2), (2, 2, 2, 2)])
def test_expanding_never_aligns_the_batch_with_the_last_axis(shape):
    x = np.ones(shape)
    np.testing.assert_array_equal((expand_like(jnp.array([1.0, 2.0]), x) * x)[1], np.full(shape[1:], 2.0))


def test_a_single_number_stays_one():
    assert expand_like(0.5, np.ones((2, 3))).shape == ()


def test_a_stream_is_keyed_by_its_name():
    crc = zlib.crc32(b"noise") & 0x7FFFFFFF
    assert jnp.all(stream(KEY, "noise") == jax.random.fold_in(KEY, crc))
    assert jnp.any(stream(KEY, "noise") != stream(KEY, "times"))


def test_image_keys_fold_in_the_index_of_the_image():
    for key, index in zip(image_keys(KEY, [5, 0, 1000]), [5, 0, 1000], strict=True):
        assert jnp.all(key == jax.random.fold_in(KEY, index))


def test_noise_of_an_image_depends_on_its_key_alone():
    keys = image_keys(KEY, np.arange(4))
    noise = noise_like(keys, jnp.zeros((4, 3, 2)))
    np.testing.assert_array_equal(noise_like(keys[jnp.array([3, 1])], jnp.zeros((2, 3, 2))), noise[jnp.array([3, 1])])
    np.testing.assert_array_equal(noise[2], jax.random.normal(keys[2], (3, 2)))
    assert len(np.unique(noise)) == noise.size


def test_one_key_makes_noise_for_the_whole_array():
    np.testing.assert_array_equal(noise_like(KEY, jnp.zeros((4, 3))), jax.random.normal(KEY, (4, 3)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_noise_has_the_type_of_the_image(x64, dtype):
    x = jnp.zeros((2, 3), dtype)
    assert noise_like(image_keys(KEY, [0, 1]), x).dtype == noise_like(KEY, x).dtype == dtype

"""Clipping changes what is said of the clean image and keeps the account of x_t true."""

import numpy as np
import pytest
from oracles import normal

from ddpm_jax.arrays import expand_like
from ddpm_jax.gaussian import q_sample
from ddpm_jax.guidance import clip_x_0
from ddpm_jax.prediction import Target
from ddpm_jax.schedule import linear

pytestmark = pytest.mark.usefixtures("x64")

LEVEL = linear(1000).level([1, 400, 1000])


def denoiser_of(x_0):
    """A denoiser that always says x_0, and has a variance head."""
    return lambda x_t, level: Target.X_0.prediction(x_0, x_t, level)._replace(var_frac=0.25)


def test_a_clipped_prediction_still_explains_the_noisy_image():
    x_0, eps = normal(2, 3, 2, 2, 1)
    x_t = q_sample(x_0, eps, LEVEL)
    clipped = clip_x_0(denoiser_of(3 * x_0))(x_t, LEVEL)
    np.testing.assert_array_equal(clipped.x_0, np.clip(3 * x_0, -1, 1))
    assert np.any(np.abs(3 * x_0) > 1)
    explained = expand_like(LEVEL.signal, x_t) * clipped.x_0 + expand_like(LEVEL.sigma, x_t) * clipped.eps
    np.testing.assert_allclose(explained, x_t, rtol=1e-12)
    assert clipped.var_frac == 0.25


def test_clipping_leaves_predictions_inside_the_range_alone():
    x_0, eps = np.tanh(normal(3, 2, 2, 1)), normal(3, 2, 2, 1, seed=1)
    x_t = q_sample(x_0, eps, LEVEL)
    clipped = clip_x_0(denoiser_of(x_0))(x_t, LEVEL)
    np.testing.assert_array_equal(clipped.x_0, x_0)
    np.testing.assert_allclose(clipped.eps, eps, rtol=1e-9, atol=1e-12)


def test_clipping_keeps_to_the_given_range():
    x_0 = np.array([[-2.0, -0.5, 0.1, 2.0]] * 3)
    clipped = clip_x_0(denoiser_of(x_0), -0.25, 0.75)(x_0, LEVEL)
    np.testing.assert_array_equal(clipped.x_0[0], [-0.25, -0.25, 0.1, 0.75])

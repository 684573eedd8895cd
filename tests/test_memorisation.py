"""Memorisation: copies of training images stand out, other draws of the same distribution do not."""

import numpy as np
import pytest
from support.metrics import at_rate, contains, normal

from ddpm_jax.errors import UserError
from ddpm_jax.metrics.memorisation import memorisation


def test_a_model_that_copies_its_20_images_stands_out_and_a_good_one_does_not():
    train, held_out = normal(20, 16), normal(60, 16, seed=1)
    copied = np.repeat(train, 3, axis=0) + 0.1 * normal(60, 16, seed=2)
    assert memorisation(copied, held_out, train).ratio.high < 0.2
    good = memorisation(normal(60, 16, seed=3), held_out, train).ratio
    assert contains(good, 1)
    assert 0.8 < good.low < good.high < 1.2
    assert good.num_images == (60, 60)


def test_the_interval_of_other_draws_contains_1_at_its_rate():
    train = normal(30, 4)
    draws = [(normal(200, 4, seed=s), normal(100, 4, seed=1000 + s)) for s in range(1, 201)]
    ratios = [memorisation(*draw, train, num_divisions=20).ratio for draw in draws]
    truth = np.mean([ratio.value for ratio in ratios])
    assert truth == pytest.approx(1, abs=0.01)
    assert at_rate([contains(ratio, 1) for ratio in ratios])


def test_it_is_the_ratio_of_medians_and_names_the_nearest_pairs():
    train = np.array([[0.0], [10.0], [20.0]])
    found = memorisation([[1.0], [9.75], [14.0]], [[2.0], [12.0], [13.0]], train)
    assert found.ratio.value == 1 / 2
    np.testing.assert_allclose(found.distance, [1, 0.25, 4])
    np.testing.assert_array_equal(found.index, [0, 1, 1])
    np.testing.assert_allclose(found.held_out_distance, [2, 2, 3])
    np.testing.assert_array_equal(found.closest_pairs(2), [[1, 1], [0, 0]])


def test_exact_copies_have_the_ratio_0():
    train = normal(10, 3)
    assert memorisation(train, normal(20, 3, seed=1), train).ratio[:4] == (0, 0, 0, 0)


def test_held_out_images_that_were_trained_on_are_no_measure():
    train = normal(10, 3)
    with pytest.raises(UserError, match="at least half of the held-out images are equal to training images"):
        memorisation(normal(10, 3, seed=1), train, train)
    with pytest.raises(UserError, match="at least 2 images in each set, got 1"):
        memorisation(normal(1, 3), normal(10, 3, seed=1), train)
    with pytest.raises(ValueError, match="features must be"):
        memorisation(normal(10, 3), normal(10, 4), train)

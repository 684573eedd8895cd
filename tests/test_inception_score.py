"""The Inception score against torch-fidelity's and scores that are known."""

import numpy as np
import pytest
from support.metrics import golden, normal

from ddpm_jax.errors import UserError
from ddpm_jax.metrics.inception_score import inception_score


@pytest.mark.parametrize("name", ["a", "b"])
def test_it_is_torch_fidelitys(name):
    _, _, logits, values = golden(name)
    found = inception_score(logits)
    assert found.value == pytest.approx(values["isc_mean_10_splits_in_order"], rel=1e-12)
    assert found.deviation == pytest.approx(values["isc_std"], rel=1e-12)
    assert found.standard_error == pytest.approx(found.deviation / 3)
    assert found.num_images == len(logits)


def test_sure_images_of_all_classes_score_the_number_of_classes():
    """A logit of 1,000 leaves the other classes a probability of 0."""
    logits = 1000 * np.tile(np.eye(5), (4, 1))
    assert inception_score(logits, num_splits=2).value == pytest.approx(5)
    assert inception_score(logits[:1], num_splits=1) == (1, 0, 0, 1)
    assert inception_score(np.zeros((20, 5)), num_splits=2).value == pytest.approx(1)


def test_splits_are_consecutive_and_hold_every_image():
    """Seven images in three splits of 2, 2 and 3, each with one class per image."""
    logits = 1000 * np.eye(7)
    assert inception_score(logits, num_splits=3).value == pytest.approx((2 + 2 + 3) / 3)


def test_a_split_without_images_is_refused():
    with pytest.raises(UserError, match="logits: 9 images are too few; at least 10"):
        inception_score(normal(9, 4))
    with pytest.raises(UserError, match="num_splits=0 must be"):
        inception_score(normal(9, 4), num_splits=0)

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from ddpm_jax.data.digits import Digits
from ddpm_jax.errors import UserError


def arrays(split):
    digits = Digits(split)
    examples = [digits[i] for i in range(len(digits))]
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


def test_digits_are_scikit_learns_value_for_value():
    images, labels = arrays("all")
    real = load_digits()
    levels = real.images.astype(int)[..., None]
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(images, np.array([round(k * 255 / 16) for k in range(17)])[levels])
    np.testing.assert_array_equal(np.round(images * (16 / 255)), levels)
    np.testing.assert_array_equal(labels, real.target)


def test_splits_cut_the_collection_in_its_own_order():
    (every, _), (train, _), (test, _) = arrays("all"), arrays("train"), arrays("test")
    assert (len(train), len(test)) == (1297, 500)
    np.testing.assert_array_equal(np.concatenate([train, test]), every)


def test_test_split_is_as_hard_as_a_support_vector_machine_finds_it():
    (train, train_labels), (test, test_labels) = arrays("train"), arrays("test")
    # The scale of scikit-learn's own example, levels 0..16, for which gamma = 0.001 is meant.
    machine = SVC(gamma=0.001).fit(train.reshape(-1, 64) * (16 / 255), train_labels)
    accuracy = machine.score(test.reshape(-1, 64) * (16 / 255), test_labels)
    assert accuracy == pytest.approx(0.96, abs=0.01)


def test_source_describes_itself():
    digits = Digits("test")
    assert digits.num_classes == 10
    assert digits.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert digits[0]["image"].shape == (8, 8, 1)
    with pytest.raises(IndexError):
        digits[500]


def test_unknown_split_names_the_splits():
    with pytest.raises(UserError, match=r"'valid'.*train, test, all"):
        Digits("valid")

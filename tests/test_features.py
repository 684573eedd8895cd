"""Arrays of features: what is not one is refused in one line that names it."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.metrics.features import checked, checked_pair


def test_float64_is_kept_and_the_rest_is_float32():
    assert checked(np.ones((2, 3))).dtype == np.float64
    for given in (np.ones((2, 3), np.float16), jnp.ones((2, 3), jnp.bfloat16), np.ones((2, 3), np.uint8)):
        assert checked(given).dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(bad):
    features = np.ones((7, 3))
    features[[2, 5], 1] = bad
    with pytest.raises(UserError, match=r"generated features: 2 of 7 rows have values that are not finite.* row 2"):
        checked_pair(np.ones((4, 3)), features)
    with pytest.raises(UserError, match="real features: 2 of 7"):
        checked_pair(features, np.ones((4, 3)))


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"logits must be \[N, D\], got \(5,\)"):
        checked(np.ones(5), "logits")
    with pytest.raises(ValueError, match=r"got \(5, 0\)"):
        checked(np.ones((5, 0)))
    with pytest.raises(ValueError, match="real numbers, got complex"):
        checked(np.ones((5, 2), complex))
    with pytest.raises(ValueError, match=r"\[N, D\] and \[M, D\], got \(5, 2\) and \(5, 3\)"):
        checked_pair(np.ones((5, 2)), np.ones((5, 3)))
    with pytest.raises(UserError, match="features: 0 images are too few; at least 1"):
        checked(np.ones((0, 2)))

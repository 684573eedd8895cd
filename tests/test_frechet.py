"""The Frechet distance against closed forms and torch-fidelity, and how often its intervals contain the truth."""

import numpy as np
import pytest
import scipy.linalg
from support.metrics import at_rate, contains, golden, normal

from ddpm_jax.errors import UserError
from ddpm_jax.metrics import intervals
from ddpm_jax.metrics.frechet import Moments, combined, frechet, frechet_distance, frechet_extrapolated, moments


def rotation(dims, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0]


def gaussian(mean, variances, turn=None):
    turn = np.eye(len(mean)) if turn is None else turn
    return Moments(None, np.array(mean, np.float64), (turn * np.array(variances, np.float64)) @ turn.T)


@pytest.mark.parametrize("name", ["a", "b"])
def test_it_is_torch_fidelitys(name):
    real, generated, _, values = golden(name)
    assert frechet_distance(moments(real), moments(generated)) == pytest.approx(values["fid"], rel=1e-7)


def test_commuting_covariances_have_a_closed_form():
    """The distance of means plus the squared distance of standard deviations."""
    turn = rotation(4)
    a, b = gaussian([1, 2, 3, 4], [1, 4, 9, 16], turn), gaussian([1, 0, 3, 1], [4, 1, 0.25, 16], turn)
    assert frechet_distance(a, b) == pytest.approx(4 + 9 + 1 + 1 + 2.5**2, rel=1e-12)


def test_covariances_that_do_not_commute_agree_with_the_root_of_their_product():
    a, b = (gaussian(np.zeros(6), np.arange(1, 7) ** power, rotation(6, power)) for power in (1, 2))
    root = scipy.linalg.sqrtm(a.cov @ b.cov)
    assert frechet_distance(a, b) == pytest.approx(np.trace(a.cov + b.cov - 2 * root).real, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_singular_covariances_have_a_closed_form():
    turn = rotation(40)
    a = gaussian(np.zeros(40), [4, 1] + [0] * 38, turn)
    b = gaussian(np.ones(40), [1, 0, 9] + [0] * 37, turn)
    assert frechet_distance(a, b) == pytest.approx(40 + 1 + 1 + 9, rel=1e-12)
    assert frechet_distance(a, gaussian(np.zeros(40), np.zeros(40))) == pytest.approx(5, rel=1e-12)


@pytest.mark.parametrize("variances", [np.arange(1, 101), [3.0] * 5 + [0] * 95])
def test_equal_distributions_have_no_distance(variances):
    a = gaussian(np.full(100, 7), variances, rotation(100))
    assert 0 <= frechet_distance(a, a) < 1e-12 * np.sum(variances)


def test_moments_are_numpys():
    features = 50 + normal(5000, 3)
    found = moments(features)
    np.testing.assert_allclose(found.mean, np.mean(features, 0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(found.cov, np.cov(np.float64(features).T), rtol=1e-12)
    assert found.num == 5000


def test_a_stream_of_batches_has_the_moments_of_all():
    """Far from the origin, where sums of squares would lose every digit of the covariance."""
    features = 1e8 + np.random.default_rng(0).standard_normal((300, 4))
    total = moments(features[:1])
    for batch in np.split(features[1:], [1, 100, 250]):
        total = combined(total, moments(batch))
    assert total.num == 300
    np.testing.assert_allclose(total.mean, features.mean(0), rtol=1e-15)
    np.testing.assert_allclose(total.cov, np.cov(features.T), rtol=1e-6)


def test_moments_say_whether_their_covariance_is_singular():
    assert moments(normal(4, 4)).is_singular
    assert not moments(normal(5, 4)).is_singular
    assert not gaussian([0, 0], [1, 1]).is_singular


def both(x, y, seed):
    return (
        frechet(x, y, seed=seed),
        intervals.at_infinity(intervals.halves(lambda a, b: frechet_distance(moments(a), moments(b)), x, y, seed=seed))[
            0
        ],
    )


def estimates(size, other, shift=0.0, dims=8):
    """The distance of normal samples at this size and extrapolated, for 200 seeds."""
    rngs = [np.random.default_rng(seed) for seed in range(200)]
    return zip(
        *(
            both(rng.standard_normal((size, dims)), (1 + shift) * rng.standard_normal((other, dims)) + shift, seed)
            for seed, rng in enumerate(rngs)
        ),
        strict=True,
    )


def test_the_intervals_of_different_distributions_contain_the_truth_at_their_rate():
    """Of the distance at this size, its expectation; of the extrapolated one, the distance of the distributions."""
    here, limit = estimates(500, 500, shift=0.2)
    mean = np.mean([e.value for e in here])
    truth = 2 * 8 * 0.2**2
    assert mean - truth > 0.1  # the bias
    assert at_rate([contains(e, mean) for e in here])
    assert at_rate([contains(e, truth) for e in limit])
    assert np.mean([e.standard_error for e in limit]) == pytest.approx(np.std([e.value for e in limit]), rel=0.1)


@pytest.mark.parametrize("other", [500, 900])
def test_a_distribution_against_itself_is_at_its_own_mean_and_at_0_in_the_limit(other):
    """The intervals are wider than they must be, by a factor of 1.4 at the most, and contain the truth more often."""
    here, limit = estimates(500, other)
    values = np.array([e.value for e in here])
    assert at_rate([contains(e, values.mean()) for e in here], most=1)
    assert at_rate([contains(e, 0) for e in limit], most=1)
    assert np.mean([contains(e, 0) for e in here]) < 0.1
    assert abs(np.mean([e.value for e in limit])) < 0.2 * values.std()
    assert 1 < np.mean([e.standard_error for e in here]) / values.std() < 1.6


def test_the_extrapolated_distance_of_5000_images_contains_0():
    """The distance itself is ten standard errors from 0."""
    x, y = np.float64(normal(5000, 16)), np.float64(normal(5000, 16, seed=1))
    found = frechet_extrapolated(x, y)
    assert contains(found, 0)
    assert found.num_images == (5000, 5000)
    assert not contains(frechet(x, y), 0)
    assert frechet(x, y).value == frechet_distance(moments(x), moments(y))


def test_against_moments_the_bias_of_the_reference_remains():
    x, y = normal(6000, 16), normal(5000, 16, seed=1)
    exact = frechet_extrapolated(Moments(None, np.zeros(16), np.eye(16)), y)
    measured = frechet_extrapolated(moments(x), y)
    assert contains(exact, 0)
    assert exact.num_images == (5000,)
    bias = (16 + 16 * 17 / 4) / 6000  # of means and of covariances, in the reference alone
    assert measured.value - exact.value == pytest.approx(bias, rel=0.4)


def test_fewer_images_are_not_extrapolated():
    with pytest.raises(UserError, match=r"4,999 images are too few to extrapolate .* \(KID\)"):
        frechet_extrapolated(normal(6000, 2), normal(4999, 2))


def test_what_has_no_distance_is_refused():
    good = moments(normal(5, 2))
    with pytest.raises(UserError, match="a covariance needs at least 2 images, got 1"):
        frechet_distance(good, moments(normal(1, 2)))
    with pytest.raises(ValueError, match="the same D"):
        frechet_distance(good, moments(normal(5, 3)))
    with pytest.raises(UserError, match="the mean or the covariance of the features is not finite"):
        frechet_distance(good, Moments(None, np.array([0, np.nan]), np.eye(2)))
    with pytest.raises(ValueError, match="an unknown number of images"):
        combined(good, gaussian([0, 0], [1, 1]))
    with pytest.raises(UserError, match="3 images are too few"):
        frechet(normal(3, 2), normal(9, 2))

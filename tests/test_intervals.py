"""Intervals from halves: exact for a mean, and they contain the expected value at their rate."""

import numpy as np
import pytest
import scipy.stats
from support.metrics import at_rate, contains, normal

from ddpm_jax.errors import UserError
from ddpm_jax.metrics.density_coverage import density_coverage
from ddpm_jax.metrics.intervals import at_infinity, at_this_size, halves, student_t
from ddpm_jax.metrics.precision_recall import precision_recall


def test_the_standard_error_of_a_mean_is_the_known_one():
    x = np.random.default_rng(0).exponential(size=400)
    (found,) = at_this_size(halves(np.mean, x, num_divisions=4000))
    assert found.value == x.mean()
    assert found.standard_error == pytest.approx(x.std(ddof=1) / 20, rel=0.03)
    assert found.num_images == (400,)


@pytest.mark.parametrize("divisions", [3, 10])
def test_the_interval_of_a_mean_contains_it_at_its_rate(divisions):
    draws = [np.random.default_rng(seed).standard_normal(101) for seed in range(1000)]
    hits = [
        contains(at_this_size(halves(np.mean, x, num_divisions=divisions, seed=i))[0], 0) for i, x in enumerate(draws)
    ]
    assert at_rate(hits)


def test_halves_of_every_set_are_disjoint_and_hold_no_image_twice():
    sets = np.arange(10), np.arange(100, 107)
    seen = []
    halves(lambda a, b: seen.append((a, b)) or 0, *sets, num_divisions=2)
    pairs = [seen[0:2], seen[2:4]]
    for (a, b), (c, d) in pairs:
        assert sorted([*a, *c]) == list(range(10))
        assert len({*b, *d}) == 6
        assert len(b) == len(d) == 3
    assert not np.array_equal(pairs[0][0][0], pairs[1][0][0])


def test_the_limit_removes_a_bias_of_1_over_n():
    x, y = np.random.default_rng(0).standard_normal((2, 100))
    (plain,) = at_this_size(halves(lambda a, b: np.mean(a) - np.mean(b), x, y))
    (limit,) = at_infinity(halves(lambda a, b: np.mean(a) - np.mean(b) + 7 / len(a) + 3 / len(b), x, y))
    assert limit.value == pytest.approx(plain.value, rel=1e-12)
    assert limit.standard_error == pytest.approx(plain.standard_error, rel=1e-12)
    assert limit.low < limit.value < limit.high


def test_several_numbers_have_an_interval_each():
    mean, variance = at_this_size(halves(lambda x: (x.mean(), x.var()), normal(50)))
    assert (mean.value, variance.value) == pytest.approx((normal(50).mean(), normal(50).var()))
    assert mean.standard_error != variance.standard_error


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 100, 1000])
def test_the_quantiles_are_students(degrees):
    assert student_t(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=5e-3)


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(UserError, match="at least 2 images in each set, got 1"):
        halves(np.mean, normal(1))
    with pytest.raises(UserError, match="num_divisions=0 must be a whole number of at least 1"):
        halves(np.mean, normal(5), num_divisions=0)


@pytest.mark.slow
def test_the_intervals_of_precision_recall_density_and_coverage_contain_their_means():
    """At their rate or more often: the balls of a half are larger than those of all points."""

    def measures(a, b):
        return *precision_recall(a, b), *density_coverage(a, b)

    pairs = [(normal(300, 6, seed=s), 0.8 * normal(300, 6, seed=1000 + s)) for s in range(100)]
    found = [at_this_size(halves(measures, *pair, num_divisions=10, seed=s)) for s, pair in enumerate(pairs)]
    for one in zip(*found, strict=True):
        mean = np.mean([e.value for e in one])
        assert at_rate([contains(e, mean) for e in one], most=1)

"""The kernel distance against every pair of images, torch-fidelity and closed forms, and the rate of its interval."""

import itertools

import numpy as np
import pytest
from support.metrics import at_rate, contains, golden, normal

from ddpm_jax.errors import UserError
from ddpm_jax.metrics import kernel
from ddpm_jax.metrics.kernel import kernel_distance, kernel_distance_of_subsets

pytestmark = pytest.mark.usefixtures("quick_compilation")


def k(x, y):
    return (np.dot(x, y) / len(x) + 1) ** 3


@pytest.mark.parametrize("name", ["a", "b"])
def test_it_is_torch_fidelitys(name):
    real, generated, _, values = golden(name)
    num = min(len(real), len(generated))
    found = kernel_distance(real[:num], generated[:num])
    assert found.value == pytest.approx(values["kid_unbiased_equal"], rel=1e-6)
    assert found.num_images == (num, num)


def test_it_is_the_mean_over_all_pairs():
    x, y = np.float64(normal(30, 4)), np.float64(normal(17, 4, seed=1) + 1)
    within = [np.mean([k(*pair) for pair in itertools.permutations(z, 2)]) for z in (x, y)]
    expected = sum(within) - 2 * np.mean([k(*pair) for pair in itertools.product(x, y)])
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-6)


def test_every_part_of_the_variance_is_the_mean_over_different_images():
    """Each trace is a sum over images that are all different, written out."""
    x, y = np.float64(normal(7, 3)), np.float64(normal(6, 3, seed=1) + 0.5)
    within, from_x, from_y = (
        kernel._sums(np.float32(a), np.float32(b), same=a is b) for a, b in ((x, x), (x, y), (y, x))
    )
    four = list(itertools.permutations(x, 4))
    own = np.mean([k(a, b) ** 2 - 2 * k(a, b) * k(a, c) + k(a, b) * k(c, d) for a, b, c, d in four])
    assert kernel._own_square(within) == pytest.approx(own, rel=1e-5)
    two = list(itertools.product(itertools.permutations(x, 2), itertools.permutations(y, 2)))
    terms = [k(a, c) ** 2 - k(a, c) * k(a, d) - k(a, c) * k(b, c) + k(a, c) * k(b, d) for (a, b), (c, d) in two]
    assert kernel._product(from_x, from_y) == pytest.approx(np.mean(terms), rel=1e-5)


def mean_kernel(a, b, dims):
    """E k(x, y) for normal x of mean a and y of mean b in each of D components, by the cumulants of their product."""
    first, second, third = a * b, (a * a + 1) * (b * b + 1), (a**3 + 3 * a) * (b**3 + 3 * b)
    variance, skew = second - first**2, third - 3 * first * second + 2 * first**3
    m_1 = dims * first
    m_2, m_3 = dims * variance + m_1**2, dims * skew + 3 * m_1 * dims * variance + m_1**3
    return m_3 / dims**3 + 3 * m_2 / dims**2 + 3 * m_1 / dims + 1


def estimates(shift, size=200, other=200, dims=12, seeds=200):
    rngs = (np.random.default_rng(seed) for seed in range(seeds))
    return [
        kernel_distance(rng.standard_normal((size, dims)), shift + rng.standard_normal((other, dims))) for rng in rngs
    ]


@pytest.mark.parametrize(("size", "other"), [(200, 200), (120, 350)])
def test_the_interval_of_a_distribution_against_itself_contains_0_at_its_rate(size, other):
    found = estimates(0, size, other)
    assert at_rate([contains(e, 0) for e in found])
    values = np.array([e.value for e in found])
    assert abs(values.mean()) < 3 * values.std() / 14
    assert np.sqrt(np.mean([e.standard_error**2 for e in found])) == pytest.approx(values.std(), rel=0.25)


@pytest.mark.parametrize("shift", [0.05, 0.1, 0.2, 0.5])
def test_the_interval_contains_the_distance_of_different_distributions_at_its_rate(shift):
    """From distances that are not told from 0 to ones that are; at 0.1 half of the intervals contain 0."""
    truth = mean_kernel(0, 0, 12) + mean_kernel(shift, shift, 12) - 2 * mean_kernel(0, shift, 12)
    found = estimates(shift)
    assert at_rate([contains(e, truth) for e in found])
    assert np.mean([e.value for e in found]) == pytest.approx(truth, abs=3 * np.std([e.value for e in found]) / 14)


def test_subsets_are_drawn_without_replacement():
    """A subset of all images is all of them, so that every one has the same distance."""
    x, y = normal(40, 3), normal(40, 3, seed=1)
    whole = kernel_distance_of_subsets(x, y, num_subsets=3, size=40)
    assert whole.value == pytest.approx(kernel_distance(x, y).value, rel=1e-6)
    assert whole.deviation < 1e-6
    parts = kernel_distance_of_subsets(x, y, num_subsets=20, size=10)
    assert parts.deviation > 0.01
    assert parts == kernel_distance_of_subsets(x, y, num_subsets=20, size=10)
    assert parts != kernel_distance_of_subsets(x, y, num_subsets=20, size=10, seed=1)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="3 images are too few; at least 4"):
        kernel_distance(normal(3, 2), normal(9, 2))
    with pytest.raises(UserError, match="9 images are too few; at least 1000"):
        kernel_distance_of_subsets(normal(2000, 2), normal(9, 2))
    with pytest.raises(UserError, match="size=3 must be a whole number of at least 4"):
        kernel_distance_of_subsets(normal(9, 2), normal(9, 2), size=3)

r"""Standard errors and intervals of any measure, from halves of the images drawn without replacement.

A bootstrap draws images with replacement, and its duplicates bias every measure that compares images or counts them:
the Frechet distance, the kernel distance, distances to the k-th neighbour. Halves have no duplicates. The images are
divided at random into two halves, several times over, and the measure is taken of each half.

The difference of the halves gives the standard error at N. To first order a measure is its limit plus a mean over
images, so its value $\theta$ at N has the variance $\sigma^2 / N$, and of two disjoint halves

$$ \operatorname{Var}\left[\frac{\theta_1 - \theta_2}{2}\right] = \frac{1}{4} \cdot 2 \cdot \frac{\sigma^2}{N / 2}
= \frac{\sigma^2}{N} . $$

A bias that depends on the number of images is equal in both halves and cancels. Where the first-order part vanishes, as
for distances between equal distributions, the second-order part of the variance is overestimated by a factor of 2, so
that intervals are wider than they must be.
"""

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError, check_counts

CONFIDENCE = 0.95
"""The probability with which an interval is to contain the expected value."""

NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""The quantile of the normal distribution that bounds an interval of 95 %, 1.96."""


class Estimate(NamedTuple):
    """A measured value with its uncertainty."""

    value: float
    standard_error: float
    low: float
    """The lower end of the interval of 95 %."""
    high: float
    """The upper end of the interval of 95 %."""
    num_images: tuple[int, ...]
    """The number of images in each set, in the order in which the measure takes the sets."""


class Halves(NamedTuple):
    """A measure of S numbers, of all images and of halves of them."""

    value: np.ndarray
    """`[S]`, from all images."""
    of_halves: np.ndarray
    """`[P, 2, S]`, from the two halves of each of P divisions."""
    num_images: tuple[int, ...]


def halves(measure: Callable[..., Any], *sets: np.ndarray, num_divisions: int = 10, seed: int = 0) -> Halves:
    """A measure of all images and of the halves of several random divisions; every set is divided.

    Args:
      measure: a function of as many arrays as there are sets, to a number or a tuple of S numbers.
      sets: arrays whose first axis is that of the images, at least 2 in each; of an odd number, one is left out of
        each division.
      num_divisions: P, the number of divisions, 1 or more; the measure is called 1 + 2 P times.
      seed: determines the divisions.

    Raises:
      UserError: num_divisions is below 1, or a set has fewer than 2 images.
    """
    check_counts(num_divisions=num_divisions)
    sizes = tuple(map(len, sets))
    if min(sizes) < 2:
        raise UserError(f"an interval from halves needs at least 2 images in each set, got {min(sizes)}")

    def measured(*arrays: np.ndarray) -> np.ndarray:
        return np.atleast_1d(np.asarray(measure(*arrays), np.float64))

    divisions = _divisions(sets, np.random.default_rng(seed), num_divisions)
    pairs = [[measured(*first), measured(*second)] for first, second in divisions]
    return Halves(measured(*sets), np.array(pairs), sizes)


def at_this_size(found: Halves) -> tuple[Estimate, ...]:
    r"""The value from all images, with an interval for its expectation at this number of images, for each of S numbers.

    $$ \text{standard error}^2 = \frac{1}{P} \sum_{p = 1}^P \left(\frac{\theta_{p1} - \theta_{p2}}{2}\right)^2 $$

    The interval is that of Student's t with P degrees of freedom.
    """
    return _estimates(found.value, found)


def at_infinity(found: Halves) -> tuple[Estimate, ...]:
    r"""The limit for infinitely many images of a measure whose bias is c / N, for each of S numbers.

    The line in 1 / N through the value at N and the mean value at N / 2 has at 1 / N = 0 the value

    $$ \theta_\infty = 2 \theta_N - \frac{1}{2 P} \sum_{p = 1}^P (\theta_{p1} + \theta_{p2}) . $$

    If there are two sets, both are halved, so that a bias a / N + b / M doubles as well and vanishes from the limit.
    What remains is of the order of 1 / N^2. The first-order part of the error is that of the value at N, and so is the
    interval.
    """
    return _estimates(2 * found.value - found.of_halves.mean(axis=(0, 1)), found)


def student_t(degrees: int) -> float:
    """The quantile of Student's t that bounds an interval of 95 %, for 1 or more degrees of freedom.

    The expansion about the normal quantile (Abramowitz and Stegun, 26.7.5) is within 0.5 % from 4 degrees on; below
    that the quantiles are listed.
    """
    listed = {1: 12.7062, 2: 4.3027, 3: 3.1824}
    if degrees in listed:
        return listed[degrees]
    z = NORMAL
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def _estimates(centre: np.ndarray, found: Halves) -> tuple[Estimate, ...]:
    error = np.sqrt(np.mean((np.diff(found.of_halves, axis=1)[:, 0] / 2) ** 2, axis=0))
    reach = student_t(len(found.of_halves)) * error
    return tuple(
        Estimate(float(value), float(one_error), float(value - way), float(value + way), found.num_images)
        for value, one_error, way in zip(centre, error, reach, strict=True)
    )


def _divisions(
    sets: tuple[np.ndarray, ...], rng: np.random.Generator, num: int
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yields the first and the second halves of all sets, disjoint and of equal size."""
    for _ in range(num):
        orders = [rng.permutation(len(array)) for array in sets]
        yield (
            [array[np.sort(order[: len(order) // 2])] for array, order in zip(sets, orders, strict=True)],
            [array[np.sort(order[-(len(order) // 2) :])] for array, order in zip(sets, orders, strict=True)],
        )

"""Precision and recall against every pair of points in NumPy, and sets whose values are known."""

import numpy as np
import pytest

from ddpm_jax.metrics import blocks
from ddpm_jax.metrics.precision_recall import precision_recall


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def brute_force(real, generated, k):
    """Kynkaanniemi et al. 2019, eq. 1 to 3, one pair of points at a time, in float64."""

    def manifold(points):
        distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
        others = [np.delete(row, i) for i, row in enumerate(distances)]
        return np.array([np.sort(row)[k - 1] for row in others])

    def share(points, centres):
        radii = manifold(centres)
        inside = [any(np.sqrt(((p - c) ** 2).sum()) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return np.mean(inside)

    real, generated = np.float64(real), np.float64(generated)
    return share(generated, real), share(real, generated)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize(("num_real", "num_generated"), [(40, 40), (60, 25)])
def test_it_is_what_brute_force_finds(k, num_real, num_generated):
    real, generated = normal(num_real, 4), 0.9 * normal(num_generated, 4, seed=1) + 1
    expected = brute_force(real, generated, k)
    assert min(expected) > 0
    assert max(expected) < 1  # so that every ball counts
    np.testing.assert_allclose(precision_recall(real, generated, k=k), expected, rtol=1e-6)


def test_precision_and_recall_are_not_mistaken_for_each_other():
    """Samples from one of two modes: all are realistic, half of what is real is missing."""
    real = np.concatenate([normal(50, 3), normal(50, 3, seed=1) + 100])
    collapsed = real[:50] + 1e-3 * normal(50, 3, seed=2)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1
    assert recall == 0.5
    assert precision_recall(collapsed, real) == (recall, precision)


def test_a_set_covers_itself():
    points = normal(30, 5)
    assert precision_recall(points, points) == (1, 1)


def test_sets_far_apart_cover_nothing_of_each_other():
    assert precision_recall(normal(30, 5), normal(30, 5, seed=1) + 1000) == (0, 0)


def test_a_ball_reaches_to_the_kth_neighbour_and_includes_its_edge():
    """Points 0, 1, 3, 7 on a line have nearest neighbours at 1, 1, 2, 4: their balls end at -1, 5 and 3, 11."""
    real = np.array([[0.0], [1.0], [3.0], [7.0]])
    generated = np.array([[-1.0], [-1.001], [5.0], [11.0], [11.001]])
    assert precision_recall(real, generated, k=1).precision == 3 / 5
    # The second neighbours are at 3, 2, 3, 6.
    assert precision_recall(real, np.array([[-3.0], [-3.001], [13.0], [13.001]]), k=2).precision == 0.5


def test_duplicates_count_as_neighbours():
    """Three copies of a point have a radius of 0 up to k = 2 and of 10 at k = 3; the fourth point always has 10."""
    real = np.array([[0.0], [0.0], [0.0], [10.0]])
    generated = np.array([[0.0], [-0.1], [5.0], [-10.0], [20.1]])
    assert precision_recall(real, generated, k=1).precision == 2 / 5
    assert precision_recall(real, generated, k=2).precision == 2 / 5
    assert precision_recall(real, generated, k=3).precision == 4 / 5


def test_a_point_far_from_the_origin_is_not_parted_from_itself():
    """Distances from products would lose the fifth digit of the radius."""
    points = 1000 + 0.01 * normal(40, 64)
    assert precision_recall(points, points) == (1, 1)
    np.testing.assert_allclose(
        precision_recall(points, points[:20] + 0.001),
        brute_force(points, points[:20] + np.float32(0.001), 3),
        rtol=1e-6,
    )


@pytest.mark.parametrize("rows", [2, 40])
def test_the_size_of_the_blocks_changes_nothing(monkeypatch, rows):
    real, generated = normal(40, 4), normal(41, 4, seed=1) + 0.4
    expected = precision_recall(real, generated)
    monkeypatch.setattr(blocks, "ROWS", rows)
    assert precision_recall(real, generated) == expected


@pytest.mark.parametrize("shapes", [((5, 2), (5, 3)), ((5,), (5, 1)), ((5, 2, 2), (5, 2, 2))])
def test_features_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match=r"features must be \[N, D\] and \[M, D\], got"):
        precision_recall(*(np.zeros(shape) for shape in shapes))


def test_sets_without_k_neighbours_are_refused():
    with pytest.raises(ValueError, match="k = 3 neighbours need more than 3 points"):
        precision_recall(normal(10, 2), normal(3, 2))
    precision_recall(normal(10, 2), normal(4, 2))

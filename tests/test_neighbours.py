"""Nearest neighbours and balls against distances of all pairs, where products alone would be wrong."""

import numpy as np
import pytest
from support.metrics import normal

from ddpm_jax.metrics import blocks, neighbours
from ddpm_jax.metrics.neighbours import nearest, num_within


def distances(a, b):
    return np.sqrt(((np.float64(a)[:, None] - np.float64(b)[None]) ** 2).sum(-1)).astype(np.float32)


def hypercube(dims):
    """Every vertex has D nearest neighbours, all at distance 1."""
    return np.array([[i >> d & 1 for d in range(dims)] for i in range(2**dims)], np.float32)


SETS = {
    "normal": (normal(50, 6), normal(70, 6, seed=1)),
    "itself": (normal(50, 6), normal(50, 6)),
    "far from the origin": (1000 + 0.01 * normal(50, 64), 1000 + 0.01 * normal(50, 64)),
    "two far clusters": (
        np.concatenate([normal(30, 6), 1e5 + normal(30, 6, seed=1)]),
        np.concatenate([1e5 + normal(30, 6, seed=2), normal(30, 6, seed=3)]),
    ),
    "ties": (hypercube(7), hypercube(7)),
    "copies": (np.repeat(normal(3, 4), 20, axis=0), np.repeat(normal(3, 4), 30, axis=0)),
    "tiny": (1e-30 * normal(20, 3), 1e-30 * normal(20, 3, seed=1)),
}


@pytest.mark.parametrize("name", SETS)
def test_distances_are_those_of_differences(name):
    rows, points = SETS[name]
    expected = np.sort(distances(rows, points), axis=1)[:, :3]
    found = nearest(rows, points, 3)
    np.testing.assert_allclose(found.distance, expected, rtol=1e-7)
    np.testing.assert_allclose(
        np.take_along_axis(distances(rows, points), found.index, axis=1), found.distance, rtol=1e-7
    )
    assert all(len(set(row)) == 3 for row in found.index.tolist())


@pytest.mark.parametrize("name", SETS)
def test_balls_include_what_differences_say(name):
    """The radii are distances of pairs, so that many rows lie exactly on an edge."""
    rows, points = SETS[name]
    radii = np.sort(distances(points, rows), axis=1)[:, 2]
    np.testing.assert_array_equal(num_within(rows, points, radii), (distances(rows, points) <= radii).sum(axis=1))


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_blocks_change_nothing(monkeypatch, rows):
    points = normal(50, 6)
    expected, radii = nearest(points, points, 4), np.full(50, 2, np.float32)
    within = num_within(points, points, radii)
    monkeypatch.setattr(blocks, "ROWS", rows)
    found = nearest(points, points, 4)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.distance, expected.distance)
    np.testing.assert_array_equal(num_within(points, points, radii), within)


def test_ordinary_rows_need_no_matrix_of_differences(monkeypatch):
    """Only rows in which too many pairs are in doubt are computed from differences as a whole."""
    asked = []

    def recording(function, rows, whole, **settings):
        asked.append((function.__name__, len(rows[0])))
        return blocks.by_rows(function, rows, whole, **settings)

    monkeypatch.setattr(neighbours, "by_rows", recording)
    points = 100 + normal(300, 64)  # which the shift to their centre makes harmless
    num_within(100 + normal(300, 64, seed=1), points, nearest(points, points, 4).distance[:, -1])
    assert asked == [("_nearest_of_candidates", 300), ("_within_by_candidates", 300)]
    asked.clear()
    nearest(hypercube(10), hypercube(10), 2)
    assert asked == [("_nearest_of_candidates", 1024), ("_nearest_of_all", 1024)]

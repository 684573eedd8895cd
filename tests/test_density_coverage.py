"""Density and coverage against every pair of points in NumPy, and sets whose values are known."""

import numpy as np
import pytest
import scipy.spatial
from support.metrics import golden, normal

from ddpm_jax.metrics.density_coverage import density_coverage
from ddpm_jax.metrics.precision_recall import precision_recall


def by_definition(real, generated, k):
    """Precision, recall, density and coverage as Naeem et al. 2020 compute them, from whole matrices in float64."""

    def distances(a, b):
        return scipy.spatial.distance.cdist(np.float64(a), np.float64(b))

    def reach(points):
        return np.sort(distances(points, points), axis=1)[:, k]

    across = distances(real, generated)
    inside = across < reach(real)[:, None]
    return (
        inside.any(axis=0).mean(),
        (across < reach(generated)[None]).any(axis=1).mean(),
        inside.sum(axis=0).mean() / k,
        (across.min(axis=1) < reach(real)).mean(),
    )


@pytest.mark.parametrize(("k", "num_real", "num_generated"), [(1, 60, 60), (5, 60, 60), (5, 90, 40)])
def test_all_four_are_as_defined(k, num_real, num_generated):
    real, generated = normal(num_real, 4), 0.8 * normal(num_generated, 4, seed=1) + 0.3
    expected = by_definition(real, generated, k)
    found = (*precision_recall(real, generated, k=k), *density_coverage(real, generated, k=k))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(set(expected)) == 4


@pytest.mark.parametrize("name", ["a", "b"])
def test_recorded_features_have_torch_fidelitys_precision_and_recall(name):
    real, generated, _, values = golden(name)
    expected = values["precision_k3"], values["recall_k3"]
    np.testing.assert_allclose(precision_recall(real, generated), expected, rtol=1e-7)
    np.testing.assert_allclose(density_coverage(real, generated), by_definition(real, generated, 5)[2:], rtol=1e-12)


def test_equal_distributions_have_density_1_and_the_known_coverage():
    found = density_coverage(normal(2000, 2), normal(2000, 2, seed=1), k=5)
    assert found.density == pytest.approx(1, abs=0.05)
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_a_ball_includes_its_edge():
    """Points 0, 1, 3 on a line have nearest neighbours at 1, 1, 2: balls [-1, 1], [0, 2] and [1, 5]."""
    real, generated = np.array([[0.0], [1.0], [3.0]]), np.array([[5.0], [5.001], [2.0], [-1.0]])
    found = density_coverage(real, generated, k=1)
    assert found.density == (1 + 0 + 2 + 1) / 4
    assert found.coverage == 1
    assert density_coverage(real, generated[:2], k=1).coverage == 1 / 3


def test_sets_without_k_neighbours_are_refused():
    with pytest.raises(ValueError, match="k = 5 neighbours need more than 5 points"):
        density_coverage(normal(10, 2), normal(5, 2))

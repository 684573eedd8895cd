"""Step sequences with the lowest bound: every term is that of the chain, and no other sequence has a lower sum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import keys

from ddpm_jax.diffusion.analytic import FiniteData
from ddpm_jax.diffusion.likelihood import bound_term
from ddpm_jax.diffusion.prediction import Prediction, with_error
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.diffusion.sequences import errors_of_jumps, least_error, lowest_bound, steps_from, terms_of, total

SCHEDULE = linear(7, beta_start=1e-3, beta_end=0.6)
DATA = FiniteData(np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1)) / 127.5 - 1)
IMAGES = jnp.asarray(DATA.points)
VARIANCES = {variance.value: variance for variance in Variance}


def denoise(x_t, level):
    """The exact denoiser, with a variance head and with an expected error."""
    exact = with_error(DATA.denoiser, np.linspace(0.01, 0.3, 7))(x_t, level)
    return exact._replace(x_0=0.9 * exact.x_0, var_frac=jnp.sin(x_t) ** 2)


@pytest.fixture(scope="module")
def tables():
    def table(variance):
        each = jax.jit(lambda steps, keys: terms_of(denoise, IMAGES, keys, steps=steps, variance=variance))
        return np.array([each(steps_from(SCHEDULE, t), keys(5, seed=t)) for t in range(1, 8)], np.float64)

    return {name: table(variance) for name, variance in VARIANCES.items()}


def chains():
    """All sequences from 7 to 0."""
    for n in range(7):
        for inner in itertools.combinations(range(6, 0, -1), n):
            yield np.array([7, *inner, 0])


@pytest.mark.parametrize("name", VARIANCES)
def test_every_term_is_that_of_the_chain_itself(tables, name):
    """All chains of up to three steps have all pairs of times, and every last step after every other one."""
    for times in (times for times in chains() if len(times) < 5):
        chain = SCHEDULE.transitions(times)
        for i, t in enumerate(times[:-1]):
            step = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf, jnp.float32)[i], chain)
            exact = bound_term(denoise, IMAGES, keys(5, seed=int(t)), transition=step, variance=VARIANCES[name])["nats"]
            last = times[i + 1] == 0
            column = (times[i - 1] if i else t) if last else times[i + 1]
            assert tables[name][t - 1, column - 1] == pytest.approx(float(exact.mean()), rel=1e-4)


@pytest.mark.parametrize("name", VARIANCES)
def test_no_sequence_has_a_lower_bound(tables, name):
    for num_steps, best in enumerate(lowest_bound(tables[name], 7), 1):
        sums = {tuple(times): total(tables[name], times) for times in chains() if len(times) == num_steps + 1}
        assert best.cost == pytest.approx(min(sums.values()))
        assert sums[tuple(best.times)] == min(sums.values())


def test_a_number_of_steps_that_is_impossible_is_refused(tables):
    for count in (0, 8):
        with pytest.raises(ValueError, match=rf"must lie in 1\.\.7, got {count}"):
            lowest_bound(tables["small"], count)


def test_the_least_sum_of_errors_is_that_of_all_sequences():
    jumps = np.random.default_rng(1).uniform(0.1, 1, (7, 7))
    for num_steps, best in enumerate(least_error(jumps, 7), 1):
        costs = {}
        for times in (times for times in chains() if len(times) == num_steps + 1):
            costs[tuple(times)] = sum(jumps[t - 1, s] for t, s in itertools.pairwise(times))
        assert best.cost == pytest.approx(min(costs.values()))
        assert costs[tuple(best.times)] == min(costs.values())


def test_a_jump_along_a_straight_solution_has_no_error():
    """DDIM is exact where x_0 and eps of the solution do not change, and off by the change elsewhere."""
    x_0, eps = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 1))
    levels = jax.tree.map(jnp.float32, SCHEDULE.level(np.arange(4)))
    solution = levels.signal.reshape(-1, 1, 1, 1, 1) * x_0 + levels.sigma.reshape(-1, 1, 1, 1, 1) * eps
    np.testing.assert_allclose(errors_of_jumps(Prediction(x_0, eps), solution, levels), 0, atol=1e-7)
    np.testing.assert_allclose(
        errors_of_jumps(Prediction(x_0 + 0.3, eps), solution, levels), 0.3 * levels.signal, rtol=1e-5
    )

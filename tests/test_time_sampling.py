"""How training times are drawn: importance sampling against the paper in NumPy, and what must not change the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chisquare

from ddpm_jax.diffusion import time_sampling
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.training.state import initial_state
from ddpm_jax.training.step import TrainSpec, train_step

T = 6
RNG = np.random.default_rng(0)


class ByHand:
    """Nichol & Dhariwal 2021, section 3.3, as lists: the last ten losses of each time."""

    def __init__(self):
        self.losses = [[] for _ in range(T)]

    def update(self, t, losses):
        for time, loss in zip(t, losses, strict=True):
            self.losses[time - 1] = [*self.losses[time - 1], float(loss)][-10:]

    def probabilities(self):
        if min(map(len, self.losses)) < 10:
            return np.full(T, 1 / T)
        root = np.sqrt([np.mean(np.square(history)) for history in self.losses])
        return 0.999 * root / root.sum() + 0.001 / T


def weights_of(sampler, state):
    """The weight of every time `[T]`, from enough draws to meet each."""
    t, weight = sampler.draw(state, jax.random.key(0), 4000)
    seen, first = np.unique(t, return_index=True)
    np.testing.assert_array_equal(seen, np.arange(1, T + 1))
    return np.asarray(weight)[first]


def test_importance_is_the_papers_with_repeated_times_in_a_batch():
    sampler, hand = time_sampling.importance(T), ByHand()
    state, update = sampler.init(), jax.jit(sampler.update)
    warm = []
    for step in range(30):
        t = RNG.integers(1, T + 1, 8)
        losses = (t * RNG.uniform(0.5, 1.5, 8)).astype(np.float32)
        state = update(state, jnp.asarray(t), jnp.asarray(losses))
        hand.update(t, losses)
        probability = hand.probabilities()
        warm.append(not np.allclose(probability, 1 / T))
        if step % 3 == 0 or step == 29:
            np.testing.assert_allclose(weights_of(sampler, state), 1 / (T * probability), rtol=1e-5)
    assert warm[-1]
    assert not warm[0]
    assert warm == sorted(warm)


def with_history(losses):
    """State after ten losses at every time, so that times are no longer uniform."""
    sampler, state = time_sampling.importance(len(losses)), time_sampling.importance(len(losses)).init()
    for _ in range(10):
        state = sampler.update(state, jnp.arange(1, len(losses) + 1), jnp.asarray(losses, jnp.float32))
    return sampler, state


def test_times_are_uniform_until_the_last_has_ten_losses():
    sampler, state = time_sampling.importance(T), time_sampling.importance(T).init()
    losses = jnp.arange(1.0, T + 1)
    for _ in range(9):
        state = sampler.update(state, jnp.arange(1, T + 1), losses)
    state = sampler.update(state, jnp.arange(1, T), losses[:-1])
    np.testing.assert_allclose(weights_of(sampler, state), 1, rtol=1e-6)
    state = sampler.update(state, jnp.array([T]), losses[-1:])
    assert not np.allclose(weights_of(sampler, state), 1)


def test_times_are_uniform_with_weights_of_one_where_every_loss_is_zero():
    """And where one is not, the others still have their share of the thousandth."""
    np.testing.assert_allclose(weights_of(*with_history(np.zeros(T))), 1, rtol=1e-6)
    sampler, state = with_history(np.eye(T)[2])
    t, weight = sampler.draw(state, jax.random.key(0), 100_000)
    expected = np.where(np.asarray(t) == 3, 1 / (T * 0.999 + 0.001), 1000)
    np.testing.assert_allclose(weight, expected, rtol=1e-5)
    assert len(np.unique(t)) == T


def test_importance_draws_by_its_probabilities():
    losses = np.array([1.0, 2.0, 8.0, 0.5, 0.0, 3.0])
    sampler, state = with_history(losses)
    t, _ = sampler.draw(state, jax.random.key(1), 50_000)
    probability = 0.999 * losses / losses.sum() + 0.001 / T
    assert chisquare(np.bincount(t, minlength=T + 1)[1:], 50_000 * probability).pvalue > 1e-3


def test_weights_undo_the_probabilities():
    """The expectation of weight times loss, summed over all times, is the plain mean, for any loss."""
    remembered, losses = np.array([1.0, 2.0, 8.0, 0.5, 0.2, 3.0]), RNG.uniform(0, 1, T)
    sampler, state = with_history(remembered)
    probability = 0.999 * remembered / remembered.sum() + 0.001 / T
    estimate = np.sum(probability * weights_of(sampler, state) * losses)
    np.testing.assert_allclose(estimate, losses.mean(), rtol=1e-5)


def test_importance_lowers_the_variance_of_what_it_remembers():
    losses = np.array([0.1, 0.2, 8.0, 0.1, 0.1, 0.3])
    sampler, state = with_history(losses)
    t, weight = sampler.draw(state, jax.random.key(2), 20_000)
    estimates = np.asarray(weight) * losses[np.asarray(t) - 1]
    np.testing.assert_allclose(estimates.mean(), losses.mean(), rtol=0.02)
    assert estimates.std() < 0.05 * losses.std()


@pytest.mark.parametrize("make", [time_sampling.uniform, time_sampling.antithetic])
def test_uniform_ways_weigh_every_time_the_same_and_remember_nothing(make):
    sampler = make(T)
    t, weight = sampler.draw(sampler.init(), jax.random.key(0), 30_000)
    np.testing.assert_array_equal(weight, 1)
    np.testing.assert_array_equal(np.unique(t), np.arange(1, T + 1))
    assert chisquare(np.bincount(t, minlength=T + 1)[1:]).pvalue > 1e-3
    assert jax.tree.leaves(sampler.update(sampler.init(), t, weight)) == []


def test_antithetic_pairs_mirror_each_other():
    t, _ = time_sampling.antithetic(T).draw((), jax.random.key(0), 8)
    np.testing.assert_array_equal(t[:4] + t[4:], T + 1)
    odd, weight = time_sampling.antithetic(T).draw((), jax.random.key(0), 7)
    np.testing.assert_array_equal(odd, t[:7])
    np.testing.assert_array_equal(weight, np.ones(7))


def test_the_memory_is_arrays_that_a_train_step_carries_on():
    """The losses of the batch, as they are and unweighted, arrive at their times in the state."""
    sampler = time_sampling.importance(T)
    spec = TrainSpec(
        objective=lambda params, examples, key: {"loss": params * (1.0 + examples.transition.now.t)},
        times=sampler,
        transitions=linear(T).transitions(),
        optimizer=optax.sgd(0.0),
    )
    state = initial_state(jax.random.key(0), lambda key: jnp.ones(()), optimizer=spec.optimizer, times=sampler)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state.times))
    batch = {"image": np.zeros((8, 2, 2, 1), np.uint8), "label": np.zeros(8, np.int32)}
    take = jax.jit(lambda state: train_step(spec, state, batch)[0])
    shapes = jax.tree.map(jnp.shape, state.times)
    for step in range(1, 21):
        state = take(state)
        assert jax.tree.map(jnp.shape, state.times) == shapes
        if step == 1:
            assert state.times.count.sum() == 8
    count, losses = np.asarray(state.times.count), np.asarray(state.times.losses)
    assert np.all(count == 10)
    np.testing.assert_allclose(losses, np.broadcast_to(1.0 + np.arange(1, T + 1)[:, None], (T, 10)))
    np.testing.assert_allclose(weights_of(sampler, state.times), weights_of(*with_history(1.0 + np.arange(1, T + 1))))

"""What a run starts from, and the moving average of its parameters against its formula."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion.arrays import stream
from ddpm_jax.diffusion.time_sampling import importance, uniform
from ddpm_jax.training.state import ema_update, initial_state

KEY = jax.random.key(11)


def init_params(key):
    return {"layer": {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.zeros(2)}}


def test_a_run_starts_at_step_zero_from_its_own_streams():
    optimizer, times = optax.adam(0.1), importance(5)
    state = initial_state(KEY, init_params, optimizer=optimizer, times=times)
    assert state.step == 0
    assert state.step.dtype == jnp.int32
    chex.assert_trees_all_equal(state.params, init_params(stream(KEY, "params")))
    chex.assert_trees_all_equal(state.opt_state, optimizer.init(state.params))
    chex.assert_trees_all_equal(state.times, times.init())
    assert state.key == stream(KEY, "train")


def test_the_average_starts_as_a_copy_of_the_parameters():
    """A copy, not the same array: the step donates both."""
    state = initial_state(KEY, init_params, optimizer=optax.adam(0.1), times=uniform(5))
    chex.assert_trees_all_equal(state.ema_params, state.params)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema_params))]
    assert len(set(pointers)) == len(pointers)


def test_a_state_is_arrays_only():
    state = initial_state(KEY, init_params, optimizer=optax.adam(0.1), times=importance(5))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("step", "decay"),
    [(1, 2 / 11), (2, 3 / 12), (90, 91 / 100), (890, 0.99), (891, 0.99), (10**6, 0.99)],
)
def test_the_average_warms_up_by_the_number_of_steps(x64, step, decay):
    """`(1 + n) / (10 + n)` reaches 0.99 at n = 890."""
    new = ema_update({"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([3.0, 5.0])}, step=jnp.int32(step), decay=0.99)
    np.testing.assert_allclose(new["a"], [decay + 3 * (1 - decay), -2 * decay + 5 * (1 - decay)], rtol=1e-12)


def test_the_average_is_the_weighted_sum_of_its_past(x64):
    values = np.random.default_rng(0).standard_normal(30)
    ema = jnp.asarray(values[0])
    for n in range(1, 30):
        ema = ema_update(ema, jnp.asarray(values[n]), step=n, decay=0.6)
    decays = [min(0.6, (1 + n) / (10 + n)) for n in range(1, 30)]
    weights = [np.prod(decays)] + [(1 - d) * np.prod(decays[n + 1 :]) for n, d in enumerate(decays)]
    np.testing.assert_allclose(np.sum(weights), 1)
    np.testing.assert_allclose(ema, weights @ values, rtol=1e-12)


def test_the_average_of_float32_stays_float32():
    assert ema_update(jnp.ones(2), jnp.zeros(2), step=jnp.int32(1), decay=0.9).dtype == jnp.float32


def test_an_average_of_other_shapes_is_refused():
    """A parameter `[1]` would be broadcast without a word."""
    with pytest.raises(AssertionError, match="shape"):
        ema_update({"a": jnp.ones(3)}, {"a": jnp.ones(1)}, step=1, decay=0.9)

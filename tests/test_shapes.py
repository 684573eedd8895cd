"""Arrays that do not belong together are refused where they would be broadcast without a word."""

import chex
import jax
import jax.numpy as jnp
import pytest

import ddpm_jax as dj
from ddpm_jax.training.state import ema_update

SCHEDULE = dj.schedules.linear(10)
LEVEL, MOVE = SCHEDULE.level(5), SCHEDULE.transitions([5, 3])
X, GREY = jnp.zeros((4, 2, 2, 3)), jnp.zeros((4, 2, 2, 1))
KEYS = jax.random.split(jax.random.key(0), 4)
ONE_MOVE = jax.tree.map(lambda leaf: leaf[0], MOVE)
EACH = jax.tree.map(lambda leaf: jnp.full(4, leaf[0]), MOVE)


def grey(x_t, level):
    """A denoiser of one channel, whatever x_t has."""
    return dj.Prediction(x_0=GREY, eps=GREY)


MISTAKES = {
    "noise of other channels": lambda: dj.q_sample(X, GREY, LEVEL),
    "a step's noise of other channels": lambda: dj.q_step(X, GREY, ONE_MOVE),
    "an x_0 of other channels": lambda: dj.q_posterior(GREY, X, ONE_MOVE),
    "a network of other channels": lambda: dj.Target.V.prediction(GREY, X, LEVEL),
    "a denoiser of other channels": lambda: dj.losses.l_simple()(grey, X, KEYS, EACH),
    "one key in a batch of four": lambda: dj.noise_like(KEYS[:1], X),
    "two keys for each image": lambda: dj.noise_like(jnp.stack([KEYS, KEYS], axis=1), X),
    "one level in a batch of four": lambda: dj.q_sample(X, X, SCHEDULE.level(jnp.array([5]))),
    "a level for each row": lambda: dj.q_sample(X, X, SCHEDULE.level(jnp.full((4, 2), 5))),
    "one key for a chain of four": lambda: dj.sample(dj.samplers.heun(), grey, KEYS[:1], x_T=GREY, transitions=MOVE),
    "one move in place of a chain": lambda: dj.sample(dj.samplers.ddim(), grey, KEYS, x_T=GREY, transitions=ONE_MOVE),
    "one label for four": lambda: dj.losses.cross_entropy(
        lambda x_t, level: jnp.zeros((4, 10)), X, KEYS, EACH, label=jnp.zeros(1, int)
    ),
    "labels in a column": lambda: dj.losses.cross_entropy(
        lambda x_t, level: jnp.zeros((4, 10)), X, KEYS, EACH, label=jnp.zeros((4, 1), int)
    ),
    "an average of other parameters": lambda: ema_update({"w": jnp.zeros(1)}, {"w": jnp.zeros(3)}, step=1, decay=0.9),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_arrays_of_other_shapes_are_refused(mistake):
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        MISTAKES[mistake]()


def test_shapes_are_asserted_while_a_function_is_traced():
    """And never when it runs: the compiled program is the same."""
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        jax.eval_shape(lambda eps: dj.q_sample(X, eps, LEVEL), GREY)
    chex.assert_trees_all_equal(jax.jit(lambda eps: dj.q_sample(X, eps, LEVEL))(X), X)

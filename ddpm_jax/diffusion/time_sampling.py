"""Which times a training batch is taken at, as triples of pure functions over a state of arrays.

Most ways draw uniformly and remember nothing. Importance sampling remembers how large the loss was at each time,
draws the large ones more often and weights them down again, so that the mean stays the same and its noise falls.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array


class TimeSampler(NamedTuple):
    """A way to draw training times.

    Attributes:
      init: `() -> state`, arrays.
      draw: `(state, key, batch size) -> (times [B] in 1..T, weights [B])`; the mean of weight times loss estimates
        the mean of the loss over all times.
      update: `(state, times [B], losses [B]) -> state`, after the step.
    """

    init: Callable[[], Any]
    draw: Callable[[Any, Array, int], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]


class LossHistory(NamedTuple):
    """The last losses seen at each time: values `[T, history]`, and how many there are `[T]`."""

    losses: Array
    count: Array


def uniform(num_timesteps):
    """Independent times, uniform on 1..T (Ho et al. 2020, algorithm 1)."""
    return _stateless(lambda key, size: jax.random.randint(key, (size,), 1, num_timesteps + 1))


def antithetic(num_timesteps):
    """Times in pairs t and T + 1 - t, each uniform on 1..T (Song et al. 2020's code for DDIM)."""

    def draw(key, size):
        half = jax.random.randint(key, ((size + 1) // 2,), 1, num_timesteps + 1)
        return jnp.concatenate([half, num_timesteps + 1 - half])[:size]

    return _stateless(draw)


def importance(num_timesteps, *, history=10):
    """Times drawn with probability proportional to `sqrt(E[L_t**2])` (Nichol & Dhariwal 2021, eq. 18).

    The mean is over the last `history` losses of each time; until every time has so many, and where all of them are 0,
    times are uniform. A thousandth of the probability stays uniform, so that no weight is without bound.
    """
    floor = 1e-3

    def init():
        return LossHistory(jnp.zeros((num_timesteps, history)), jnp.zeros(num_timesteps, jnp.int32))

    def probabilities(state):
        root = jnp.sqrt(jnp.mean(state.losses**2, axis=1))
        total = jnp.sum(root)
        known = jnp.all(state.count >= history) & (total > 0)
        return jnp.where(known, root / total * (1 - floor) + floor / num_timesteps, 1 / num_timesteps)

    def draw(state, key, size):
        p = probabilities(state)
        index = jax.random.categorical(key, jnp.log(p), shape=(size,))
        return index + 1, 1 / (num_timesteps * p[index])

    def update(state, times, losses):
        def remember(state, pair):
            index, loss = pair
            row = jnp.roll(state.losses[index], 1).at[0].set(loss)
            count = jnp.minimum(state.count[index] + 1, history)
            return LossHistory(state.losses.at[index].set(row), state.count.at[index].set(count)), None

        return jax.lax.scan(remember, state, (times - 1, losses))[0]

    return TimeSampler(init, draw, update)


def _stateless(draw):
    """A sampler with nothing to remember and weights of one."""
    return TimeSampler(
        init=lambda: (),
        draw=lambda state, key, size: (draw(key, size), jnp.ones(size)),
        update=lambda state, times, losses: state,
    )

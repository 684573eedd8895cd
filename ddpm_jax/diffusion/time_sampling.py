"""How the times of a training batch are drawn, as triples of pure functions over a state of arrays.

Most methods draw uniformly and have no state. Importance sampling records how large the loss was at each time, draws
times of large loss more often and gives them smaller weights, so that the mean stays the same and its variance falls.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array

State: TypeAlias = Any
"""The state of a `TimeSampler`, a tree of arrays that each sampler defines for itself, such as `LossHistory`."""


class TimeSampler(NamedTuple):
    """A method to draw training times.

    Attributes:
      init: `() -> state`, a tree of arrays.
      draw: `(state, key, batch size) -> (times [B] in 1..T, weights [B])`; the mean of weight times loss estimates
        the mean of the loss over all times.
      update: `(state, times [B], losses [B]) -> state`, called after the train step.
    """

    init: Callable[[], State]
    draw: Callable[[State, Array, int], tuple[Array, Array]]
    update: Callable[[State, Array, Array], State]


class LossHistory(NamedTuple):
    """The last losses at each time: their values `[T, history]`, and their count `[T]`."""

    losses: Array
    count: Array


def uniform(num_timesteps: int) -> TimeSampler:
    """Independent times, uniform on 1..T (Ho et al. 2020, algorithm 1)."""
    return _stateless(lambda key, size: jax.random.randint(key, (size,), 1, num_timesteps + 1))


def antithetic(num_timesteps: int) -> TimeSampler:
    """Times in pairs t and T + 1 - t, each uniform on 1..T (Song et al. 2020's code for DDIM)."""

    def draw(key: Array, size: int) -> Array:
        half = jax.random.randint(key, ((size + 1) // 2,), 1, num_timesteps + 1)
        return jnp.concatenate([half, num_timesteps + 1 - half])[:size]

    return _stateless(draw)


def importance(num_timesteps: int, *, history: int = 10) -> TimeSampler:
    """Times drawn with probability proportional to `sqrt(E[L_t**2])` (Nichol & Dhariwal 2021, eq. 18).

    The mean is over the last `history` losses of each time. Times are uniform until every time has that many losses,
    and when all losses are 0. A thousandth of the probability stays uniform, so that the weights are bounded.
    """
    floor = 1e-3

    def init() -> LossHistory:
        return LossHistory(jnp.zeros((num_timesteps, history)), jnp.zeros(num_timesteps, jnp.int32))

    def probabilities(state: LossHistory) -> Array:
        root = jnp.sqrt(jnp.mean(state.losses**2, axis=1))
        total = jnp.sum(root)
        known = jnp.all(state.count >= history) & (total > 0)
        return jnp.where(known, root / total * (1 - floor) + floor / num_timesteps, 1 / num_timesteps)

    def draw(state: LossHistory, key: Array, size: int) -> tuple[Array, Array]:
        p = probabilities(state)
        index = jax.random.categorical(key, jnp.log(p), shape=(size,))
        return index + 1, 1 / (num_timesteps * p[index])

    def update(state: LossHistory, times: Array, losses: Array) -> LossHistory:
        def remember(state: LossHistory, pair: tuple[Array, Array]) -> tuple[LossHistory, None]:
            index, loss = pair
            row = jnp.roll(state.losses[index], 1).at[0].set(loss)
            count = jnp.minimum(state.count[index] + 1, history)
            return LossHistory(state.losses.at[index].set(row), state.count.at[index].set(count)), None

        return jax.lax.scan(remember, state, (times - 1, losses))[0]

    return TimeSampler(init, draw, update)


def _stateless(draw: Callable[[Array, int], Array]) -> TimeSampler:
    """A `TimeSampler` without state, all of whose weights are one."""
    return TimeSampler(
        init=lambda: (),
        draw=lambda state, key, size: (draw(key, size), jnp.ones(size)),
        update=lambda state, times, losses: state,
    )

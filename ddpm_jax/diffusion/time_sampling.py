"""How the times of a training batch are drawn, as triples of pure functions over a state of arrays.

Most methods draw uniformly and have no state. Importance sampling records how large the loss was at each time, draws
times of large loss more often and gives them smaller weights, so that the mean stays the same and its variance falls.
Methods of continuous time (`uniform_log_snr`, `normal_log_snr`, `learned`) draw floats.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import nn
from jax.scipy.special import ndtri

from ddpm_jax.diffusion.arrays import Array
from ddpm_jax.diffusion.continuous import times_of
from ddpm_jax.diffusion.schedules import NoiseSchedule

State: TypeAlias = Any
"""The state of a `TimeSampler`, a tree of arrays that each sampler defines for itself, such as `LossHistory`."""


class TimeSampler(NamedTuple):
    """A method to draw training times.

    Attributes:
      init: `() -> state`, a tree of arrays.
      draw: `(state, key, batch size) -> (times [B], weights [B])`, integers in 1..T or floats in [1, T]; the mean of
        weight times loss estimates the mean of the loss over the distribution of the method, which is uniform over
        all times unless it says another.
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

        return jax.lax.scan(remember, state, (jnp.asarray(times, jnp.int32) - 1, losses))[0]

    return TimeSampler(init, draw, update)


def uniform_log_snr(schedule: NoiseSchedule) -> TimeSampler:
    """Float times whose log-SNR is uniform between the ends of a schedule, stratified (`_strata`).

    So each weight of the noise error weighs the bound (Kingma & Gao 2023, eq. 6).
    """
    time, (last, first) = times_of(schedule), schedule.log_snr_ends.tolist()
    return _stateless(lambda key, size: time(last + (first - last) * _strata(key, size)))


def normal_log_snr(schedule: NoiseSchedule, *, mean: float, std: float) -> TimeSampler:
    r"""Float times whose log-SNR is normal, cut off at the ends of a schedule, and stratified (`_strata`).

    The log-normal `sigma / signal` of Karras et al. 2022 (table 1, `ln sigma` of mean -1.2 and standard deviation 1.2)
    has mean 2.4 and standard deviation 2.4 here. The logit-normal time `s` of the straight path (Esser et al. 2024,
    section 3.1) has `log-SNR = -2 logit(s)`: mean 0 and standard deviation 2. All weights are one: the distribution is
    a part of these objectives.
    """
    time, first = times_of(schedule), float(schedule.log_snr[0])
    last = float(schedule.log_snr[-1])
    low, high = ((1 + math.erf((end - mean) / std / math.sqrt(2))) / 2 for end in (last, first))
    return _stateless(lambda key, size: time(mean + std * ndtri(low + (high - low) * _strata(key, size))))


class Density(NamedTuple):
    """A density of times that is constant in each of K parts of [1, T]: the logarithms of their shares, `[K]`."""

    logits: Array


def learned(num_timesteps: int, *, num_parts: int = 64, rate: float = 0.05) -> TimeSampler:
    r"""Float times from a density that is trained to lower the variance of the loss (Kingma et al. 2021, section 5.1).

    A change of the times of a continuous schedule is a change of their density, so a learned schedule is a learned
    density, which leaves the mean of the loss alone. With the shares p_k of K parts, weights w = 1 / (K p_k) and losses
    L, the square to be lowered and its gradient in the logits of p are

    $$ \mathbb{E}[(w L)^2], \qquad -\mathbb{E}[ (w L)^2\, (e_k - p) ], $$

    which a step estimates from its own batch. It moves by `rate` times the gradient over the mean square.

    Args:
      num_timesteps: T.
      num_parts: K.
      rate: the size of a step of the logits.
    """

    def shares(state: Density) -> Array:
        floor = 1e-2
        return (1 - floor) * nn.softmax(state.logits) + floor / num_parts

    def draw(state: Density, key: Array, size: int) -> tuple[Array, Array]:
        p = shares(state)
        ends = jnp.append(0.0, jnp.cumsum(p)) / jnp.sum(p)
        place = _strata(key, size)
        part = jnp.clip(jnp.searchsorted(ends, place, side="right") - 1, 0, num_parts - 1)
        within = (place - ends[part]) / (ends[part + 1] - ends[part])
        times = 1 + (num_timesteps - 1) * (part + within) / num_parts
        return jnp.clip(times, 1, num_timesteps), 1 / (num_parts * p[part])

    def update(state: Density, times: Array, losses: Array) -> Density:
        p = shares(state)
        place = (times - 1) / max(num_timesteps - 1, 1) * num_parts
        part = jnp.clip(place.astype(jnp.int32), 0, num_parts - 1)
        squares = (losses / (num_parts * p[part])) ** 2
        share = squares / jnp.maximum(jnp.sum(squares), jnp.finfo(squares.dtype).tiny)
        step = jnp.zeros(num_parts).at[part].add(share) - jnp.sum(share) * p
        return Density(state.logits + rate * step)

    return TimeSampler(lambda: Density(jnp.zeros(num_parts)), draw, update)


def _strata(key: Array, size: int) -> Array:
    """One number in each of `size` equal parts of (0, 1), at the same place in all, in random order.

    Kingma et al. 2021, appendix I.1. Each is uniform on (0, 1), and together they are spread evenly, which lowers the
    variance of a mean over them.
    """
    place, order = jax.random.split(key)
    shift = jax.random.uniform(place, (), minval=1e-6, maxval=1 - 1e-6)
    return (jax.random.permutation(order, size) + shift) / size


def _stateless(draw: Callable[[Array, int], Array]) -> TimeSampler:
    """A `TimeSampler` without state, all of whose weights are one."""
    return TimeSampler(
        init=lambda: (),
        draw=lambda state, key, size: (draw(key, size), jnp.ones(size)),
        update=lambda state, times, losses: state,
    )

"""The step sequences of short chains that suit a network best, for every number of steps at once.

The bound of a chain is a sum of terms, one for each of its transitions (`likelihood.py`), and a term does not depend on
the other transitions. So the sequence of N steps with the lowest bound is the shortest path of N edges from T to 0 in
the graph of all times, and dynamic programming finds it (Watson et al. 2021, algorithm 1). The same holds for the sum
of the errors that deterministic steps make, each from a point of an accurate solution (Chen et al. 2024). One
evaluation of the network at x_t gives the terms, and the errors, from t to all earlier times. Read next:
`timesteps.py`, the sequences that need no data.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array, noise_like
from ddpm_jax.diffusion.gaussian import Cdf, normal_cdf, q_sample
from ddpm_jax.diffusion.likelihood import decoder_nats
from ddpm_jax.diffusion.prediction import Denoiser, Prediction
from ddpm_jax.diffusion.samplers.ancestral import Variance, step_kl_nats
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition


class Sequence(NamedTuple):
    """The times of a chain and what it costs.

    Attributes:
      times: `[N + 1]`, falling from T to 0.
      cost: the sum of its terms without L_T, nats per image, or that of its errors.
    """

    times: np.ndarray
    cost: float


class ChainFit(NamedTuple):
    """What is measured of a network, so that short chains suit it.

    Attributes:
      terms: `[T, T]` nats per image, the terms of the bound between all times, as for `lowest_bound`.
      jumps: `[T, T]`, the errors of deterministic steps between all times, as for `least_error`.
      x_0_mse: `[T]`, the mean squared error of the estimate of x_0 at times 1..T, as for `with_error`.
    """

    terms: np.ndarray
    jumps: np.ndarray
    x_0_mse: np.ndarray


def steps_from(schedule: NoiseSchedule, t: int) -> Transition:
    """The T steps whose terms one evaluation of the network at time t gives, leaves `[T]`.

    They are those to s = 1..t - 1, and then those to 0 of a chain that came from u = t..T, by which `log_var_small` of
    a last step is decided; u = t stands for a chain that begins at t.
    """
    num_timesteps = schedule.num_timesteps
    earlier, later = np.arange(1, t), np.arange(t + 1, num_timesteps + 1)
    steps = schedule.between(t, np.concatenate([earlier, np.zeros(len(later) + 1)]))
    before = schedule.between(later, t)
    log_var_small = np.concatenate([np.asarray(steps.log_var_small)[:t], np.asarray(before.log_var_small)])
    return steps._replace(log_var_small=log_var_small, log_var_range=np.log(steps.beta) - log_var_small)


def terms_of(
    denoise: Denoiser, x_0: AnyArray, keys: Array, *, steps: Transition, variance: Variance, cdf: Cdf = normal_cdf
) -> Array:
    """The terms of the bound of steps that all start at the same time, by one evaluation: `[n]` nats, per image.

    Args:
      denoise: `Denoiser`.
      x_0: `[B, ...]`, 8-bit values scaled to [-1, 1].
      keys: `[B]` keys of the noise, one per image.
      steps: as of `steps_from`, leaves `[n]`.
      variance, cdf: as for `likelihood.bound_term`.
    """
    now = jax.tree.map(lambda leaf: jnp.asarray(leaf, x_0.dtype)[0], steps.now)
    x_t = q_sample(x_0, noise_like(keys, x_0), now)
    prediction = denoise(x_t, now)

    def kl(step: Transition) -> Array:
        return jnp.sum(step_kl_nats(prediction, x_0, transition=step, variance=variance)) / len(x_0)

    def decoder(step: Transition) -> Array:
        return jnp.mean(decoder_nats(prediction, x_0, x_t, transition=step, variance=variance, cdf=cdf))

    leaves = jax.tree.map(lambda leaf: jnp.asarray(leaf, x_0.dtype), steps)
    return jax.lax.map(lambda step: jax.lax.cond(step.next.t > 0, kl, decoder, step), leaves)


def errors_of_jumps(prediction: Prediction, exact: Array, levels: NoiseLevel) -> Array:
    """The errors of deterministic steps (DDIM) that all start at the same time, `[n]`: root mean squares.

    Args:
      prediction: the `Prediction` at x_t, `[B, ...]`.
      exact: `[n, B, ...]`, the points at earlier times of the accurate solution through x_t.
      levels: their `NoiseLevel`, leaves `[n]`.
    """

    def error(at: tuple[Array, NoiseLevel]) -> Array:
        x_s, level = at
        return jnp.sqrt(jnp.mean((level.signal * prediction.x_0 + level.sigma * prediction.eps - x_s) ** 2))

    return jax.lax.map(error, (exact, levels))


def total(terms: np.ndarray, times: np.ndarray) -> float:
    """The bound of a chain without L_T, in nats, by the table of `lowest_bound`.

    Args:
      terms: the table.
      times: `[N + 1]` integers, falling from T to 0.
    """
    at = np.asarray(times).astype(int)
    before_last = at[-3] if len(at) > 2 else at[-2]
    return float(terms[at[:-2] - 1, at[1:-1] - 1].sum() + terms[at[-2] - 1, before_last - 1])


def lowest_bound(terms: np.ndarray, most_steps: int) -> list[Sequence]:
    """The sequences of 1, 2, ... steps with the lowest bound, by dynamic programming (Watson et al. 2021, algorithm 1).

    Args:
      terms: `[T, T]` nats, whose row t - 1 has the terms of `steps_from(schedule, t)`: at `[t - 1, s - 1]` the KL term
        of the step from t to s < t, at `[t - 1, u - 1]` the term L_0 at t after a step from u >= t.
      most_steps: N, in 1..T.

    Returns:
      N `Sequence`s.

    Raises:
      ValueError: the number of steps is not in 1..T.
    """
    later = np.tri(len(terms), k=-1, dtype=bool)
    step, last_two = np.where(later, terms, np.inf), np.where(later, terms + terms.T, np.inf)
    return _cheapest(step, last_two, float(terms[-1, -1]), most_steps)


def least_error(jumps: np.ndarray, most_steps: int) -> list[Sequence]:
    """The sequences of 1, 2, ... steps whose errors have the least sum, by dynamic programming (Chen et al. 2024).

    An error at one time is carried on by later steps, about as much whatever their number, which the sum leaves out.

    Args:
      jumps: `[T, T]`, at `[t - 1, s]` the error of a step from t to s < t, 0 included (`errors_of_jumps`).
      most_steps: N, in 1..T.

    Returns:
      N `Sequence`s.

    Raises:
      ValueError: as `lowest_bound`.
    """
    later = np.tri(len(jumps), k=-1, dtype=bool)
    step = np.where(later, np.roll(jumps, -1, axis=1), np.inf)
    return _cheapest(step, step + jumps[:, 0], float(jumps[-1, 0]), most_steps)


def _cheapest(step: np.ndarray, last_two: np.ndarray, whole: float, most_steps: int) -> list[Sequence]:
    """The cheapest sequences of 1, 2, ... steps.

    Args:
      step: `[T, T]`, at `[t - 1, s - 1]` the cost of a step from t to s < t, infinite elsewhere.
      last_two: `[T, T]`, at `[u - 1, t - 1]` that of a step from u to t < u and of the last one, from t to 0.
      whole: that of the one step from T to 0.
      most_steps: N.
    """
    last = len(step)
    if not 1 <= most_steps <= last:
        raise ValueError(f"the number of steps must lie in 1..{last}, got {most_steps}")
    cost, cheapest = np.full(last, np.inf), np.zeros((most_steps, last), int)
    cost[-1] = 0  # of the cheapest path of so many steps from T to each time; `cheapest` has the time before
    found = [Sequence(np.array([last, 0]), whole)]
    for num_steps in range(2, most_steps + 1):
        totals = cost[:, None] + last_two
        u, t = np.unravel_index(np.argmin(totals), totals.shape)
        path = [int(t), int(u)]
        for before in cheapest[1 : num_steps - 1][::-1]:
            path.append(int(before[path[-1]]))
        found.append(Sequence(np.array([i + 1 for i in path[::-1]] + [0]), float(totals[u, t])))
        totals = cost[:, None] + step
        cheapest[num_steps - 1] = np.argmin(totals, axis=0)
        cost = np.min(totals, axis=0)
    return found

"""The step sequence of a short chain that has the lowest variational bound, for every number of steps at once.

The bound of a chain is a sum of terms, one for each of its transitions (`likelihood.py`), and a term does not depend on
the other transitions. So the best sequence of N steps is the shortest path of N edges from T to 0 in the graph of all
times, and dynamic programming finds it (Watson et al. 2021, algorithm 1). One evaluation of the network at x_t gives
the terms from t to all earlier times. Read next: `timesteps.py`, the sequences that need no data.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array, noise_like
from ddpm_jax.diffusion.gaussian import Cdf, normal_cdf, q_sample
from ddpm_jax.diffusion.likelihood import decoder_nats
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.samplers.ancestral import Variance, step_kl_nats
from ddpm_jax.diffusion.schedules import NoiseSchedule, Transition


class Sequence(NamedTuple):
    """The times of a chain and its bound.

    Attributes:
      times: `[N + 1]`, falling from T to 0.
      nats: the sum of its terms without L_T, per image.
    """

    times: np.ndarray
    nats: float


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


def best_sequences(terms: np.ndarray, most_steps: int) -> list[Sequence]:
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
    last = len(terms)
    if not 1 <= most_steps <= last:
        raise ValueError(f"the number of steps must lie in 1..{last}, got {most_steps}")
    later = np.tri(last, k=-1, dtype=bool)
    step = np.where(later, terms, np.inf)
    last_two = np.where(later, terms + terms.T, np.inf)  # from u to t, and from there to 0
    cost, cheapest = np.full(last, np.inf), np.zeros((most_steps, last), int)
    cost[-1] = 0  # of the cheapest path of so many steps from T to each time; `cheapest` has the time before
    found = [Sequence(np.array([last, 0]), float(terms[-1, -1]))]
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

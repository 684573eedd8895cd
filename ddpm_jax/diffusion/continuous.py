"""A noise schedule between its integer times, inside a compiled program.

A `NoiseSchedule` is a table in float64 on the host, whose `level` and `time` take any time. Training draws float times
within the compiled step, so here are the same two functions of arrays of JAX, from the table in float32. Read next:
`time_sampling.py`, which draws such times.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import nn

from ddpm_jax.diffusion.arrays import Array
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition


def transitions_at(table: Transition, times: Array) -> Transition:
    r"""The transitions from float times to the integer time below each, of a schedule as `NoiseSchedule.level` has it.

    With the step from k to k - 1 in which a time lies, at the share f of its way, and d the fall of the log-SNR over
    it, the noise that the forward process adds on this part of the way is

    $$ \beta = \frac{q}{1 + q}, \qquad q = \sigma_{k-1}^2\, (e^{f d} - 1), \qquad
       d = \log\left( 1 + \frac{\beta_k}{(1 - \beta_k)\, \sigma_{k-1}^2} \right) $$

    which subtracts no numbers that are almost equal.

    Args:
      table: all T transitions of a schedule, leaves `[T]`, in decreasing time (`NoiseSchedule.transitions`).
      times: `[B]` floats in [1, T].
    """
    above = jnp.clip(jnp.ceil(times), 1, table.num_steps)
    row = table.num_steps - above.astype(jnp.int32)
    step = jax.tree.map(lambda leaf: jnp.asarray(leaf, times.dtype)[row], table)
    f, noise = times - step.next.t, jnp.where(step.next.t > 0, step.next.sigma**2, 1)
    fading = step.now.signal == 0  # the signal falls linearly there
    fall = jnp.where(fading, 0, f * jnp.log1p(step.beta / (1 - step.beta) / noise))
    q = noise * jnp.expm1(fall)
    log_snr = step.next.log_snr - fall
    signal = jnp.where(fading, step.next.signal * (1 - f), jnp.sqrt(nn.sigmoid(log_snr)))
    sigma = jnp.where(fading, jnp.sqrt(1 - signal**2), jnp.sqrt(nn.sigmoid(-log_snr)))
    between = Transition(
        now=NoiseLevel(times, signal, sigma),
        next=step.next,
        beta=jnp.where(fading, f * (2 - f), q / (1 + q)),
        log_var_small=step.log_var_small,
        log_var_range=2 * (jnp.log(sigma) - jnp.log(step.next.sigma)),
        left=step.left,
    )
    between = between._replace(log_var_small=jnp.log(between.beta) - between.log_var_range)
    return jax.tree.map(lambda whole, part: jnp.where(times == above, whole, part), step, between)


def transition_between(now: NoiseLevel, next: NoiseLevel) -> Transition:
    """The transition from a level to one with less noise, leaves `[...]`, as `NoiseSchedule.between` has it.

    Its last step is not known, so `left` is infinite. For two levels that are almost equal, or of almost no noise, the
    table of a schedule is more accurate in float32.
    """
    clean = next.sigma == 0
    q = next.sigma**2 * jnp.expm1(jnp.where(clean, 0, next.log_snr - now.log_snr))
    beta = jnp.where(clean, now.sigma**2, -jnp.expm1(-jnp.log1p(q)))
    log_var_range = jnp.where(clean, 0, 2 * (jnp.log(now.sigma) - jnp.log(jnp.where(clean, 1, next.sigma))))
    return Transition(now, next, beta, jnp.log(beta) - log_var_range, log_var_range, jnp.full_like(beta, jnp.inf))


def level_of(schedule: NoiseSchedule) -> Callable[[Array], NoiseLevel]:
    """A function from log-SNR `[...]` to the `NoiseLevel` of a schedule that has it."""
    time = times_of(schedule)
    return lambda log_snr: NoiseLevel(time(log_snr), jnp.sqrt(nn.sigmoid(log_snr)), jnp.sqrt(nn.sigmoid(-log_snr)))


def on_straight_path(schedule: NoiseSchedule) -> Callable[[Array], NoiseLevel]:
    """A function from the share of noise on the straight path, `sigma / (signal + sigma)`, to the level that has it.

    Unlike `level_of`, it has finite derivatives also where no signal is left, which is at the share 1. Shares and the
    leaves of the level are `[...]`.
    """
    time, last = _times_of(schedule), nn.sigmoid(-schedule.log_snr_ends[0] / 2)

    def level(share: Array) -> NoiseLevel:
        norm = jnp.sqrt(share**2 + (1 - share) ** 2)
        inside = jnp.where(share > last, jnp.asarray(last, share.dtype), share)
        log_snr = 2 * (jnp.log1p(-inside) - jnp.log(inside))
        return NoiseLevel(time(log_snr, (1 - share) / norm, share > last), (1 - share) / norm, share / norm)

    return level


def times_of(schedule: NoiseSchedule) -> Callable[[Array], Array]:
    """`NoiseSchedule.time` as a function of arrays of JAX: from log-SNR `[...]` to times in [1, T]."""
    time = _times_of(schedule)
    return lambda log_snr: time(log_snr, jnp.sqrt(nn.sigmoid(log_snr)), log_snr < schedule.log_snr_ends[0])


def _times_of(schedule: NoiseSchedule) -> Callable[[Array, Array, Array], Array]:
    """The same from log-SNR, signal, and whether that is the last step of a schedule that ends in noise, `[...]`."""
    known, times = schedule.log_snr, np.arange(1, schedule.num_timesteps + 1)
    finite = np.isfinite(known)

    def time(log_snr: Array, signal: Array, fading: Array) -> Array:
        dtype = log_snr.dtype
        found = jnp.interp(-log_snr, jnp.asarray(-known[finite], dtype), jnp.asarray(times[finite], dtype))
        if not schedule.ends_in_noise:
            return found
        return jnp.where(fading, schedule.num_timesteps - signal / np.sqrt(schedule.alpha_bar[-2]), found)

    return time

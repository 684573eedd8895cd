"""Noise schedules: how much of the image is left at time t, computed once, on the host, in float64.

The forward process multiplies the image by `sqrt(1 - beta_t)` and adds noise of variance `beta_t`, T times. All that
ever matters is the product `alpha_bar_t = prod_{s <= t} (1 - beta_s)` (Ho et al. 2020, eq. 4), so that is what
`NoiseSchedule` holds. Times are those of the paper: `t = 1..T` are noisy, `t = 0` is clean data and `alpha_bar[0] ==
1`.

A schedule hands out two things, both plain numbers that can be sliced by a scan or gathered into a batch:
`NoiseLevel`, where a noisy image is, and `Transition`, a move between two levels. Read next: `gaussian.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class NoiseLevel(NamedTuple):
    """Where a noisy image is: `x_t = signal x_0 + sigma eps`.

    Attributes:
      t: time in 0..T (a float, integer-valued on the grid of the schedule); `[]` or `[B]` like the others.
      signal: `sqrt(alpha_bar_t)`.
      sigma: `sqrt(1 - alpha_bar_t)`; `signal**2 + sigma**2 == 1`.
    """

    t: jax.Array
    signal: jax.Array
    sigma: jax.Array

    @property
    def log_snr(self):
        """`log(alpha_bar_t / (1 - alpha_bar_t))`, the one number that all schedules have in common."""
        return 2 * (jnp.log(self.signal) - jnp.log(self.sigma))


class Transition(NamedTuple):
    """A move of the reverse chain from time t to an earlier time s, with the variances it may have.

    Attributes:
      now: level at t.
      next: level at s < t.
      beta: `1 - alpha_bar_t / alpha_bar_s`, the variance that the forward process adds between s and t.
      log_var_small: log of `beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) beta`, the posterior's variance. At s
        = 0, where that is zero, the value of the move before stands in (it only matters to the decoder of the bound).
      log_var_large: log of `beta`.
    """

    now: NoiseLevel
    next: NoiseLevel
    beta: jax.Array
    log_var_small: jax.Array
    log_var_large: jax.Array


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A noise schedule: `alpha_bar` `[T + 1]`, float64, strictly decreasing from `alpha_bar[0] == 1`, above 0.

    Raises:
      ValueError: the array is anything else.
    """

    alpha_bar: np.ndarray

    def __post_init__(self):
        alpha_bar = np.array(self.alpha_bar, np.float64)
        if alpha_bar.ndim != 1 or alpha_bar.size < 2 or alpha_bar[0] != 1:
            raise ValueError("alpha_bar is a vector [T + 1] that starts with 1 (clean data)")
        if not (np.all(np.diff(alpha_bar) < 0) and alpha_bar[-1] > 0):
            raise ValueError("alpha_bar falls strictly and stays above 0: every beta lies strictly between 0 and 1")
        alpha_bar.flags.writeable = False
        object.__setattr__(self, "alpha_bar", alpha_bar)

    @property
    def num_timesteps(self):
        """T, the number of noising steps."""
        return self.alpha_bar.size - 1

    @property
    def beta(self):
        """`[T]`, the variance added by each step; `beta[t - 1]` belongs to time t."""
        return 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]

    @property
    def log_snr(self):
        """`[T]`, log signal-to-noise ratio of times 1..T, falling."""
        return np.log(self.alpha_bar[1:]) - np.log1p(-self.alpha_bar[1:])

    def level(self, t):
        """The noise level at time t, an integer or, between integers, interpolated linearly in log-SNR.

        Args:
          t: number or array; 0, or anything in [1, T].

        Raises:
          ValueError: a time outside that range (log-SNR is infinite at 0, so there is nothing to interpolate below 1).
        """
        t = np.asarray(t, np.float64)
        if np.any((t != 0) & ~((t >= 1) & (t <= self.num_timesteps))):
            raise ValueError(f"times are 0 or lie in [1, {self.num_timesteps}], got {t}")
        log_snr = np.interp(t, np.arange(1, self.num_timesteps + 1), self.log_snr)
        log_snr = np.where(t == 0, np.inf, log_snr)
        return NoiseLevel(t, np.sqrt(_sigmoid(log_snr)), np.sqrt(_sigmoid(-log_snr)))

    def time(self, log_snr):
        """The time at which the log-SNR has a value: the inverse of `level(t).log_snr`, a float in [1, T]."""
        return np.interp(-np.asarray(log_snr, np.float64), -self.log_snr, np.arange(1, self.num_timesteps + 1))

    def transitions(self, timesteps=None):
        """The moves along a decreasing sequence of times; any subset of T..0 is a respaced chain.

        Args:
          timesteps: `[N + 1]` strictly decreasing times, ending in 0 for a whole chain; None for T, T-1, ..., 0.

        Returns:
          A `Transition` with leaves `[N]`, in the order in which the reverse chain takes them.

        Raises:
          ValueError: the times do not decrease, or there are fewer than two.
        """
        if timesteps is None:
            timesteps = np.arange(self.num_timesteps, -1, -1)
        timesteps = np.asarray(timesteps, np.float64)
        if timesteps.ndim != 1 or timesteps.size < 2 or np.any(np.diff(timesteps) >= 0):
            raise ValueError(f"a chain is two or more strictly decreasing times, got {timesteps}")
        now, next = self.level(timesteps[:-1]), self.level(timesteps[1:])
        beta = 1 - (now.signal / next.signal) ** 2
        log_var_large = np.log(beta)
        with np.errstate(divide="ignore"):
            log_var_small = 2 * (np.log(next.sigma) - np.log(now.sigma)) + log_var_large
        if timesteps[-1] == 0:
            log_var_small[-1] = log_var_small[-2] if len(beta) > 1 else log_var_large[-1]
        return Transition(now, next, beta, log_var_small, log_var_large)

    def encoding(self, timesteps):
        """The moves of `transitions` upwards, from less noise to more, for deterministic samplers.

        The first move must not start at t = 0, where an image has no noise to read: encode from t = 1, of which an
        image is a draw up to noise of standard deviation `sigma_1` (0.01 for the linear schedule).

        Args:
          timesteps: falling times as for `transitions`, ending above 0.

        Raises:
          ValueError: the times do not fall, or end in 0.
        """
        if timesteps[-1] == 0:
            raise ValueError("encode from t = 1 or later: at t = 0 there is no noise to read")
        down = jax.tree.map(lambda leaf: leaf[::-1], self.transitions(timesteps))
        return down._replace(now=down.next, next=down.now)


def from_betas(betas):
    """The schedule of given betas `[T]`, each strictly between 0 and 1."""
    return NoiseSchedule(np.concatenate([[1.0], np.cumprod(1 - np.asarray(betas, np.float64))]))


def linear(num_timesteps=1000, *, beta_start=1e-4, beta_end=0.02):
    """Betas grow linearly (Ho et al. 2020, section 4)."""
    return from_betas(np.linspace(beta_start, beta_end, num_timesteps))


def quadratic(num_timesteps=1000, *, beta_start=1e-4, beta_end=0.02):
    """Square roots of the betas grow linearly (the "quad" schedule of Ho et al.'s code)."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2)


def sigmoid(num_timesteps=1000, *, beta_start=1e-4, beta_end=0.02):
    """Betas grow as the logistic function over [-6, 6] (Song et al. 2020's code for DDIM)."""
    return from_betas(_sigmoid(np.linspace(-6, 6, num_timesteps)) * (beta_end - beta_start) + beta_start)


def cosine(num_timesteps=1000, *, offset=0.008, max_beta=0.999):
    """`alpha_bar` falls as a squared cosine, betas capped (Nichol & Dhariwal 2021, eq. 17)."""
    angle = (np.arange(num_timesteps + 1) / num_timesteps + offset) / (1 + offset) * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def _sigmoid(x):
    """Logistic function without overflow at either end."""
    return np.exp(-np.logaddexp(0, -x))

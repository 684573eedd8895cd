"""Noise schedules: how much of the image is left at time t, computed once, on the host, in float64.

The forward process multiplies the image by `sqrt(1 - beta_t)` and adds noise of variance `beta_t`, T times. Every
other quantity follows from the product `alpha_bar_t = prod_{s <= t} (1 - beta_s)` (Ho et al. 2020, eq. 4), so
`NoiseSchedule` holds that product. Times are those of the paper: `t = 1..T` are noisy, `t = 0` is clean data and
`alpha_bar[0] == 1`. Between them a schedule is continuous: `level` takes any time in [1, T].

A schedule produces two kinds of objects, whose leaves can be sliced by a scan or gathered into a batch: `NoiseLevel`,
the scale of signal and noise in a noisy image, and `Transition`, a step between two levels. Read next: `gaussian.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real


class NoiseLevel(NamedTuple):
    """The scale of signal and noise in a noisy image: `x_t = signal x_0 + sigma eps`.

    A `NoiseSchedule` computes the fields in float64 on the host; inside a compiled program they are arrays of JAX.

    Attributes:
      t: time in 0..T (a float, integer-valued on the grid of the schedule); `[]` or `[B]` like the others.
      signal: `sqrt(alpha_bar_t)`.
      sigma: `sqrt(1 - alpha_bar_t)`; `signal**2 + sigma**2 == 1`.
      until: the time at which a step from here ends, for a network that was taught to take it in one evaluation
        (`mean_flow.py`); None for an estimate at t itself.
    """

    t: Real
    signal: Real
    sigma: Real
    until: Real | None = None

    @property
    def log_snr(self) -> Array:
        """`log(alpha_bar_t / (1 - alpha_bar_t))`, `[]` or `[B]`: the noise as every schedule measures it alike."""
        return 2 * (jnp.log(self.signal) - jnp.log(self.sigma))


class Transition(NamedTuple):
    """A step of the reverse chain from time t to an earlier time s, with the bounds of its variance.

    Attributes:
      now: level at t.
      next: level at s < t.
      beta: `1 - alpha_bar_t / alpha_bar_s`, the variance that the forward process adds between s and t.
      log_var_small: log of `beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) beta`, the posterior's variance. At s
        = 0, where that is zero, it has the value of the previous transition (only the decoder of the bound uses it).
      log_var_range: `log_var_large - log_var_small`, which float32 could not take from the two: near t = T they differ
        by a millionth.
      left: how many steps are left to the clean image, with this one; infinite in a chain that does not end there.
    """

    now: NoiseLevel
    next: NoiseLevel
    beta: Real
    log_var_small: Real
    log_var_range: Real
    left: Real

    @property
    def log_var_large(self) -> Real:
        """The log of `beta`."""
        return self.log_var_small + self.log_var_range

    @property
    def num_steps(self) -> int:
        """N, the number of transitions of a chain, whose leaves are `[N]`."""
        return np.shape(self.beta)[0]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A noise schedule: `alpha_bar` `[T + 1]`, float64, strictly decreasing from `alpha_bar[0] == 1`.

    It stays above 0, or ends in exactly 0, at pure noise ("zero terminal SNR", Lin et al. 2024). Then the noise at t =
    T says nothing of the image, so a network cannot be trained on eps there, and log-SNR is minus infinity.

    Raises:
      ValueError: the array does not meet these conditions.
    """

    alpha_bar: np.ndarray

    def __post_init__(self) -> None:
        alpha_bar = np.array(self.alpha_bar, np.float64)
        if alpha_bar.ndim != 1 or alpha_bar.size < 2 or alpha_bar[0] != 1:
            raise ValueError("alpha_bar must be a vector [T + 1] that starts with 1 (clean data)")
        if not (np.all(np.diff(alpha_bar) < 0) and alpha_bar[-1] >= 0):
            raise ValueError(
                "alpha_bar must fall strictly and stay above 0, or end in 0: every beta must lie strictly between 0 "
                "and 1, or the last one be 1"
            )
        alpha_bar.flags.writeable = False
        object.__setattr__(self, "alpha_bar", alpha_bar)

    @property
    def num_timesteps(self) -> int:
        """T, the number of noising steps."""
        return self.alpha_bar.size - 1

    @property
    def beta(self) -> np.ndarray:
        """`[T]`, the variance that each step adds; `beta[t - 1]` belongs to time t."""
        return 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]

    @property
    def log_snr(self) -> np.ndarray:
        """`[T]`, the log signal-to-noise ratio of times 1..T, decreasing."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha_bar[1:]) - np.log1p(-self.alpha_bar[1:])

    @property
    def log_snr_ends(self) -> np.ndarray:
        """`[2]`, the last and the first log-SNR that are finite; 0 for both in a single step that ends in noise."""
        finite = self.log_snr[np.isfinite(self.log_snr)]
        return finite[[-1, 0]] if finite.size else np.zeros(2)

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing is left of the image at t = T."""
        return bool(self.alpha_bar[-1] == 0)

    def level(self, t: ArrayLike) -> NoiseLevel:
        """The noise level at time t; between integers it is interpolated linearly in log-SNR.

        Between T - 1 and the end of a schedule that ends in noise, the signal falls linearly to 0 instead.

        Args:
          t: number or array; each time is 0 or lies in [1, T].

        Raises:
          ValueError: a time is outside that range (log-SNR is infinite at 0, so no interpolation is possible below 1).
        """
        t = np.asarray(t, np.float64)
        if np.any((t != 0) & ~((t >= 1) & (t <= self.num_timesteps))):
            raise ValueError(f"times must be 0 or lie in [1, {self.num_timesteps}], got {t}")
        left, known = self.num_timesteps - t, self.log_snr
        if self.ends_in_noise:
            known[-1] = -1e3  # any finite number: the levels of the last step are replaced below
        log_snr = np.where(t == 0, np.inf, np.interp(t, np.arange(1, self.num_timesteps + 1), known))
        signal, sigma = np.sqrt(_sigmoid(log_snr)), np.sqrt(_sigmoid(-log_snr))
        if not self.ends_in_noise:
            return NoiseLevel(t, signal, sigma)
        fading = np.sqrt(self.alpha_bar[-2]) * np.minimum(left, 1)
        return NoiseLevel(t, np.where(left < 1, fading, signal), np.where(left < 1, np.sqrt(1 - fading**2), sigma))

    def time(self, log_snr: ArrayLike) -> np.ndarray | float:
        """The time at which the log-SNR has a value: the inverse of `level(t).log_snr`, a float in [1, T]."""
        wanted, known = np.asarray(log_snr, np.float64), self.log_snr
        times = np.interp(-wanted, -known, np.arange(1, self.num_timesteps + 1))
        if not self.ends_in_noise or self.num_timesteps == 1:
            return times
        fading = self.num_timesteps - np.sqrt(_sigmoid(wanted) / self.alpha_bar[-2])
        return np.where(wanted < known[-2], fading, times)

    def transitions(self, timesteps: ArrayLike | None = None) -> Transition:
        """The transitions along a decreasing sequence of times; any subset of T..0 is a respaced chain.

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
            raise ValueError(f"a chain needs two or more strictly decreasing times, got {timesteps}")
        chain = self.between(timesteps[:-1], timesteps[1:])
        if timesteps[-1] != 0:
            return chain
        log_var_small, log_var_range = np.array(chain.log_var_small), np.array(chain.log_var_range)
        if timesteps.size > 2:
            log_var_range[-1] += log_var_small[-1] - log_var_small[-2]
            log_var_small[-1] = log_var_small[-2]
        left = np.arange(timesteps.size - 1, 0, -1.0)
        return chain._replace(log_var_small=log_var_small, log_var_range=log_var_range, left=left)

    def between(self, t: ArrayLike, s: ArrayLike) -> Transition:
        """The transitions from times t `[...]` to times s < t `[...]`, each by itself, leaves `[...]`.

        For s = 0 `beta_tilde` is zero. A chain takes the value of its previous transition there; a single transition
        has none, and its `log_var_small` is the log of `beta`.

        Raises:
          ValueError: a time is out of range, as for `level`, or an s is not below its t.
        """
        t, s = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(s, np.float64))
        if np.any(s >= t):
            raise ValueError(f"a transition goes to an earlier time, got {t} to {s}")
        now, next = self.level(t), self.level(s)
        beta = 1 - (now.signal / next.signal) ** 2
        with np.errstate(divide="ignore"):
            log_var_range = np.where(s > 0, 2 * (np.log(now.sigma) - np.log(next.sigma)), 0.0)
        return Transition(now, next, beta, np.log(beta) - log_var_range, log_var_range, np.where(s > 0, np.inf, 1.0))

    def encoding(self, timesteps: AnyArray | Sequence[float]) -> Transition:
        """The reversed transitions of `transitions`, from less noise to more, for deterministic samplers.

        The first one must not start at t = 0, where an image contains no noise that could be estimated. Encode from
        t = 1: a clean image differs from a sample at t = 1 by noise of standard deviation `sigma_1` (0.01 for the
        linear schedule).

        Args:
          timesteps: decreasing times as for `transitions`, the last of them above 0.

        Returns:
          A `Transition` with leaves `[N]`, in increasing order of time.

        Raises:
          ValueError: the times do not decrease, or the last is 0.
        """
        if timesteps[-1] == 0:
            raise ValueError("encoding must start at t = 1 or later: at t = 0 there is no noise to estimate")
        down = jax.tree.map(lambda leaf: leaf[::-1], self.transitions(timesteps))
        return down._replace(now=down.next, next=down.now)


def from_betas(betas: ArrayLike) -> NoiseSchedule:
    """The schedule of given betas `[T]`, each strictly between 0 and 1, of which the last may be 1."""
    return NoiseSchedule(np.concatenate([[1.0], np.cumprod(1 - np.asarray(betas, np.float64))]))


def linear(num_timesteps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    r"""Linear schedule: the betas grow linearly from `beta_start` to `beta_end`.

    $$ \beta_t = \beta_1 + \frac{t - 1}{T - 1} (\beta_T - \beta_1), \qquad
       \bar\alpha_t = \prod_{s=1}^{t} (1 - \beta_s) $$

    [Ho et al. 2020](https://arxiv.org/abs/2006.11239), section 4.
    """
    return from_betas(np.linspace(beta_start, beta_end, num_timesteps))


def quadratic(num_timesteps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Quadratic schedule: the square roots of the betas grow linearly (the "quad" schedule of Ho et al.'s code)."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2)


def sigmoid(num_timesteps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Sigmoid schedule: the betas grow as the logistic function over [-6, 6] (Song et al. 2020's code for DDIM)."""
    return from_betas(_sigmoid(np.linspace(-6, 6, num_timesteps)) * (beta_end - beta_start) + beta_start)


def cosine(num_timesteps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    r"""Cosine schedule: `alpha_bar` falls as a squared cosine, and no beta exceeds `max_beta`.

    $$ \bar\alpha_t = \frac{f(t)}{f(0)}, \qquad
       f(t) = \cos^2\left(\frac{t / T + s}{1 + s} \cdot \frac{\pi}{2}\right) $$

    [Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672), eq. 17; s is `offset`.
    """
    angle = (np.arange(num_timesteps + 1) / num_timesteps + offset) / (1 + offset) * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def log_snr(num_timesteps: int = 1000, *, first: float = 13.3, last: float = -5.0) -> NoiseSchedule:
    """Schedule whose log-SNR falls linearly from `first` at t = 1 to `last` at t = T (Kingma et al. 2021, section 3.1).

    With it the weight 1 of the noise error is that of the variational bound of a chain of infinitely many steps.
    """
    return NoiseSchedule(np.append(1.0, _sigmoid(np.linspace(first, last, num_timesteps))))


def straight(num_timesteps: int = 1000) -> NoiseSchedule:
    r"""The schedule of the straight path `(1 - s) x_0 + s eps` with s = t / T, which ends in noise.

    $$ \frac{\sqrt{1 - \bar\alpha_t}}{\sqrt{\bar\alpha_t}} = \frac{s}{1 - s}, \qquad
       x_t = \frac{(1 - s)\, x_0 + s\, \epsilon}{\sqrt{(1 - s)^2 + s^2}} $$

    The path of flow matching and rectified flow ([Liu et al. 2022](https://arxiv.org/abs/2209.03003);
    [Lipman et al. 2023](https://arxiv.org/abs/2210.02747)), scaled to the variance of this package.
    """
    s = np.arange(num_timesteps + 1) / num_timesteps
    return NoiseSchedule((1 - s) ** 2 / ((1 - s) ** 2 + s**2))


def shifted(schedule: NoiseSchedule, factor: float) -> NoiseSchedule:
    """The schedule whose `sigma / signal` is `factor` times that of another, at every time.

    A larger image needs more noise before it is lost, in proportion to its side ([Hoogeboom et al.
    2023](https://arxiv.org/abs/2301.11093), section 3.1); on the straight path this is the shift of the times of
    [Esser et al. 2024](https://arxiv.org/abs/2403.03206), eq. 23.

    Raises:
      ValueError: the factor is not above 0.
    """
    if not factor > 0:
        raise ValueError(f"the factor must be above 0, got {factor}")
    alpha_bar = schedule.alpha_bar
    return NoiseSchedule(alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar)))


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule whose signals are those of another, less the last one, and scaled so that the first one stays.

    So it ends in noise, from which the chain starts ([Lin et al. 2024](https://arxiv.org/abs/2305.08891), algorithm 1).

    Raises:
      ValueError: the schedule has only one step.
    """
    if schedule.num_timesteps == 1:
        raise ValueError("a schedule of one step cannot keep its first level and end in noise")
    signal = np.sqrt(schedule.alpha_bar[1:])
    return NoiseSchedule(np.append(1.0, ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2))


def _sigmoid(x: np.ndarray | np.floating) -> np.ndarray | np.floating:
    """The logistic function, without overflow at either end."""
    return np.exp(-np.logaddexp(0, -x))

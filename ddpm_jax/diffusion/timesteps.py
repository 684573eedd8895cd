"""Time grids: which levels a short chain visits. A grid has N + 1 decreasing times, from T to 0, for N steps.

Solvers of higher order need float times, because rounding to integers destroys their order of accuracy. Networks accept
float times, since their time embedding is continuous.
"""

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule


def uniform(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """`num_steps` evenly spaced integers from T down to 1, then 0: `[N + 1]` (Nichol & Dhariwal 2021, section 4)."""
    num_timesteps = _checked(schedule, num_steps)
    last = 1 if num_steps > 1 else num_timesteps
    return np.append(np.round(np.linspace(num_timesteps, last, num_steps)), 0)


def trailing(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Integers T, T - T/N, ..., T/N, 0, `[N + 1]`: even strides that end at 0 (Lin et al. 2024, section 3.3)."""
    return np.round(np.linspace(_checked(schedule, num_steps), 0, num_steps + 1))


def quadratic(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Float times with evenly spaced square roots, then 0: `[N + 1]` (Song et al. 2020, appendix D.2)."""
    num_timesteps = _checked(schedule, num_steps)
    last = 1 if num_steps > 1 else num_timesteps
    times = _fractions(num_timesteps**0.5, last**0.5, num_steps) ** 2
    return np.append(np.minimum(times, num_timesteps), 0)  # the square of a rounded root may lie above T


def log_snr(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Float times with evenly spaced log-SNR from t = T to t = 1, then 0: `[N + 1]` (Lu et al. 2022)."""
    _checked(schedule, num_steps)
    return np.append(schedule.time(_fractions(schedule.log_snr[-1], schedule.log_snr[0], num_steps)), 0)


def karras(schedule: NoiseSchedule, num_steps: int, *, rho: float = 7.0) -> np.ndarray:
    """Float times with evenly spaced `(sigma / signal)**(1 / rho)`, from T to 1, then 0: `[N + 1]`.

    Source: Karras et al. 2022, eq. 5.
    """
    _checked(schedule, num_steps)
    first, last = np.exp(-schedule.log_snr[[-1, 0]] / 2)
    ratio = _fractions(first ** (1 / rho), last ** (1 / rho), num_steps) ** rho
    return np.append(schedule.time(-2 * np.log(ratio)), 0)


def _fractions(first: float, last: float, num_steps: int) -> np.ndarray:
    """Evenly spaced numbers from the first to the last, both included; one step gives only the first."""
    return np.linspace(first, last, num_steps)


def _checked(schedule: NoiseSchedule, num_steps: int) -> int:
    """T, after a check that the number of steps is possible.

    Raises:
      ValueError: `num_steps` is not in 1..T.
    """
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise ValueError(f"num_steps must lie in 1..{schedule.num_timesteps}, got {num_steps}")
    return schedule.num_timesteps

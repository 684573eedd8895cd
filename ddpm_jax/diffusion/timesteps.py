"""Time grids: which levels a short chain visits. A grid is N + 1 falling times, from T to 0, for N moves.

Solvers of higher order want float times: rounding to integers hides their order. Networks take them, since their time
embedding is continuous.
"""

import numpy as np


def uniform(schedule, num_steps):
    """`num_steps` evenly spaced integers from T down to 1, then 0 (Nichol & Dhariwal 2021, section 4)."""
    num_timesteps = _checked(schedule, num_steps)
    last = 1 if num_steps > 1 else num_timesteps
    return np.append(np.round(np.linspace(num_timesteps, last, num_steps)), 0)


def trailing(schedule, num_steps):
    """Integers T, T - T/N, ..., T/N, 0: even strides that end at 0 (Lin et al. 2024, section 3.3)."""
    return np.round(np.linspace(_checked(schedule, num_steps), 0, num_steps + 1))


def quadratic(schedule, num_steps):
    """Square roots evenly spaced, denser at low noise (after Song et al. 2020, appendix D.2), then 0; float times."""
    num_timesteps = _checked(schedule, num_steps)
    last = 1 if num_steps > 1 else num_timesteps
    times = _fractions(num_timesteps**0.5, last**0.5, num_steps) ** 2
    return np.append(np.minimum(times, num_timesteps), 0)  # the square of a rounded root may lie above T


def log_snr(schedule, num_steps):
    """Log-SNR evenly spaced from t = T to t = 1 (Lu et al. 2022), then 0; float times."""
    _checked(schedule, num_steps)
    return np.append(schedule.time(_fractions(schedule.log_snr[-1], schedule.log_snr[0], num_steps)), 0)


def karras(schedule, num_steps, *, rho=7.0):
    """`(sigma / signal)**(1 / rho)` evenly spaced, t = T to 1 (Karras et al. 2022, eq. 5), then 0; float times."""
    _checked(schedule, num_steps)
    first, last = np.exp(-schedule.log_snr[[-1, 0]] / 2)
    ratio = _fractions(first ** (1 / rho), last ** (1 / rho), num_steps) ** rho
    return np.append(schedule.time(-2 * np.log(ratio)), 0)


def _fractions(first, last, num_steps):
    """Evenly spaced numbers from the first to the last, both included; the first alone for one step."""
    return np.linspace(first, last, num_steps)


def _checked(schedule, num_steps):
    """T, after a check that so many moves fit into it."""
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise ValueError(f"num_steps lies in 1..{schedule.num_timesteps}, got {num_steps}")
    return schedule.num_timesteps

"""Time grids: which levels a short chain visits. A grid has N + 1 decreasing times, to 0, for N steps.

The first time is T, except for `leading`. Solvers of higher order need float times, because rounding to integers
destroys their order of accuracy. Networks accept float times, since their time embedding is continuous.
"""

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule


def uniform(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """`num_steps` evenly spaced integers from T down to 1, then 0: `[N + 1]` (Nichol & Dhariwal 2021, section 4).

    They are the times of improved and guided diffusion's `space_timesteps`, which adds the stride up and rounds halves
    of the 0-based index to the even one. `linspace` multiplies the stride, so the two may differ by one where rounding
    decides.
    """
    num_timesteps = _checked(schedule, num_steps)
    stride = (num_timesteps - 1) / max(num_steps - 1, 1)
    return _from_indices(np.cumsum([0.0, *[stride] * (num_steps - 1)]), num_timesteps)


def linspace(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """The evenly spaced integers of diffusers' spacing of that name, from T down to 1, then 0: `[N + 1]`.

    For one step diffusers takes the time 1; here it is T, where x_T belongs.
    """
    num_timesteps = _checked(schedule, num_steps)
    return _from_indices(np.linspace(0, num_timesteps - 1, num_steps), num_timesteps)


def leading(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Integers `1 + i (T // N)` for i from N - 1 down to 0, then 0: `[N + 1]`, whose first time is below T.

    They are the even strides of Song et al. 2020's code (DDIM) and diffusers' spacing of that name. The chain starts
    from pure noise although its first time has less of it, which Lin et al. 2024 (section 3.3) describe as a flaw.
    """
    num_timesteps = _checked(schedule, num_steps)
    return np.append(1.0 + np.arange(num_steps)[::-1] * (num_timesteps // num_steps), 0)


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
    """Float times with evenly spaced log-SNR from t = T to t = 1, then 0: `[N + 1]` (Lu et al. 2022).

    Of a schedule that ends in noise, they are evenly spaced from T - 1, where the log-SNR is finite, and the first of
    them is replaced by T; so are those of `karras`.
    """
    _checked(schedule, num_steps)
    last, first = schedule.log_snr_ends
    return _at(schedule, _fractions(last, first, num_steps))


def karras(schedule: NoiseSchedule, num_steps: int, *, rho: float = 7.0) -> np.ndarray:
    """Float times with evenly spaced `(sigma / signal)**(1 / rho)`, from T to 1, then 0: `[N + 1]`.

    Source: Karras et al. 2022, eq. 5.
    """
    _checked(schedule, num_steps)
    first, last = np.exp(-schedule.log_snr_ends / 2)
    ratio = _fractions(first ** (1 / rho), last ** (1 / rho), num_steps) ** rho
    return _at(schedule, -2 * np.log(ratio))


def _at(schedule: NoiseSchedule, log_snr: np.ndarray) -> np.ndarray:
    """The times of log-SNRs that begin with the last finite one, from T instead, and to 0."""
    return np.concatenate([[schedule.num_timesteps], np.ravel(schedule.time(log_snr))[1:], [0]])


def _from_indices(indices: np.ndarray, num_timesteps: int) -> np.ndarray:
    """Times from increasing 0-based indices `[N]`, which are rounded, then 0: `[N + 1]`; one step starts at T."""
    times = 1 + np.round(indices)[::-1]
    return np.append(times if len(times) > 1 else num_timesteps, 0)


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

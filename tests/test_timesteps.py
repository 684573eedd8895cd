"""Each time grid against its formula, recomputed from alpha_bar."""

import numpy as np
import pytest
from support.analytic import ALL_GRIDS, ALL_SCHEDULES, each

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.schedules import cosine, linear


def sigma_over_signal(schedule, times):
    """At float times, log-SNR being linear between integers."""
    a = schedule.alpha_bar[1:]
    log_snr = np.interp(times, np.arange(1, len(a) + 1), np.log(a / (1 - a)))
    return np.exp(-log_snr / 2)


@each("grid", ALL_GRIDS)
@each("schedule", ALL_SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_a_grid_starts_at_the_last_time_falls_and_ends_at_zero(grid, schedule, num_steps):
    schedule = schedule(50)
    times = grid(schedule, num_steps)
    assert times.shape == (num_steps + 1,)
    first = {timesteps.leading: 1 + (num_steps - 1) * (50 // num_steps)}.get(grid, 50)
    assert times[0] == pytest.approx(first, rel=1e-12)
    assert times[-1] == 0
    assert np.all(np.diff(times) < 0)
    assert np.all(schedule.transitions(times).beta > 0)


@pytest.mark.parametrize("grid", [timesteps.uniform, timesteps.trailing, timesteps.leading, timesteps.linspace])
def test_as_many_steps_as_times_are_all_times(grid):
    np.testing.assert_array_equal(grid(linear(20), 20), np.arange(20, -1, -1))


def space_timesteps(num_timesteps, num_steps):
    """The indices of improved and guided diffusion's function of that name, for one section."""
    stride, index, taken = 1 if num_steps <= 1 else (num_timesteps - 1) / (num_steps - 1), 0.0, []
    for _ in range(num_steps):
        taken.append(round(index))
        index += stride
    return taken


@pytest.mark.parametrize("num_timesteps", [10, 100, 1000, 4000])
def test_uniform_visits_the_times_of_respacing(num_timesteps):
    """Halves are rounded to the even index, and sums of a stride are not its multiples."""
    schedule, differs = linear(num_timesteps), 0
    for num_steps in range(2, min(num_timesteps, 300) + 1):
        times = timesteps.uniform(schedule, num_steps)
        theirs = space_timesteps(num_timesteps, num_steps)
        np.testing.assert_array_equal(times, [*(1 + i for i in reversed(theirs)), 0])
        differs += bool(np.any(times != timesteps.linspace(schedule, num_steps)))
    assert differs == {10: 0, 100: 18, 1000: 68, 4000: 81}[num_timesteps]


def test_evenly_strided_grids_are_rounded():
    np.testing.assert_array_equal(timesteps.uniform(linear(1000), 5), [1000, 750, 501, 251, 1, 0])
    np.testing.assert_array_equal(timesteps.linspace(linear(1000), 5), [1000, 750, 501, 251, 1, 0])
    np.testing.assert_array_equal(timesteps.leading(linear(1000), 5), [801, 601, 401, 201, 1, 0])
    np.testing.assert_array_equal(timesteps.leading(linear(10), 4), [7, 5, 3, 1, 0])
    np.testing.assert_array_equal(timesteps.trailing(linear(1000), 5), [1000, 800, 600, 400, 200, 0])
    np.testing.assert_array_equal(timesteps.trailing(linear(10), 3), [10, 7, 3, 0])


@pytest.mark.parametrize("num_steps", [2, 9])
def test_quadratic_is_even_in_the_root_of_time(num_steps):
    i = np.arange(num_steps)
    expected = (10 + i / (num_steps - 1) * (1 - 10)) ** 2
    np.testing.assert_allclose(timesteps.quadratic(linear(100), num_steps), [*expected, 0], rtol=1e-12)


@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
@pytest.mark.parametrize("num_steps", [2, 9])
def test_log_snr_is_even_in_the_log_of_sigma_over_signal(schedule, num_steps):
    a = schedule.alpha_bar
    first, last = (np.log((1 - a[t]) / a[t]) for t in (100, 1))
    i = np.arange(num_steps)
    times = timesteps.log_snr(schedule, num_steps)[:-1]
    expected = first + i / (num_steps - 1) * (last - first)
    np.testing.assert_allclose(2 * np.log(sigma_over_signal(schedule, times)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_is_equation_5_of_its_paper(schedule, rho):
    """`sigma_i = (max**(1/rho) + i/(N-1) (min**(1/rho) - max**(1/rho)))**rho` with sigma over signal for sigma."""
    a, i = schedule.alpha_bar, np.arange(9)
    first, last = (np.sqrt((1 - a[t]) / a[t]) for t in (100, 1))
    expected = (first ** (1 / rho) + i / 8 * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    times = timesteps.karras(schedule, 9, rho=rho)[:-1]
    np.testing.assert_allclose(sigma_over_signal(schedule, times), expected, rtol=1e-9)


@each("schedule", ALL_SCHEDULES)
def test_time_is_the_inverse_of_log_snr(schedule):
    schedule = schedule(50)
    a = schedule.alpha_bar
    np.testing.assert_allclose(schedule.time(np.log(a[1:] / (1 - a[1:]))), np.arange(1, 51), rtol=1e-9)
    times = np.array([1.25, 17.5, 49.9])
    np.testing.assert_allclose(schedule.time(-2 * np.log(sigma_over_signal(schedule, times))), times, rtol=1e-9)


@each("grid", ALL_GRIDS)
def test_a_grid_of_no_steps_or_of_too_many_is_refused(grid):
    for num_steps in (0, -3, 51):
        with pytest.raises(ValueError, match=rf"1\.\.50, got {num_steps}"):
            grid(linear(50), num_steps)

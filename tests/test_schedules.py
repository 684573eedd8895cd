"""Schedules against the formulas of their papers, and every respaced chain against the algebra of Gaussians."""

import math
from dataclasses import FrozenInstanceError

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.analytic import ALL_SCHEDULES, PROPERTY, each, pick

from ddpm_jax.diffusion.schedules import NoiseSchedule, cosine, from_betas, linear, quadratic, sigmoid

T = 1000

subsets = st.sets(st.integers(1, 40), min_size=1).map(lambda times: [*sorted(times, reverse=True), 0])


def alpha_bar_of(betas):
    """Products of 1 - beta, summed in logs without rounding."""
    return [math.exp(math.fsum(math.log1p(-b) for b in betas[:t])) for t in range(len(betas) + 1)]


def test_linear_ends_in_the_papers_noise():
    assert linear(T).alpha_bar[-1] == pytest.approx(4.0358e-5, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "beta"),
    [
        (linear, lambda u: 1e-4 + u * (0.02 - 1e-4)),
        (quadratic, lambda u: (0.01 + u * (math.sqrt(0.02) - 0.01)) ** 2),
        (sigmoid, lambda u: 1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * u))),
    ],
    ids=["linear", "quadratic", "sigmoid"],
)
def test_betas_are_the_papers(schedule, beta):
    betas = [beta(t / (T - 1)) for t in range(T)]
    np.testing.assert_allclose(schedule(T).beta, betas, rtol=1e-11)
    np.testing.assert_allclose(schedule(T).alpha_bar, alpha_bar_of(betas), rtol=1e-12)


@pytest.mark.parametrize("schedule", [linear, quadratic, sigmoid, cosine])
def test_a_schedule_has_a_thousand_steps_unless_told_otherwise(schedule):
    assert schedule().num_timesteps == 1000
    np.testing.assert_array_equal(schedule().alpha_bar, schedule(1000).alpha_bar)


@pytest.mark.parametrize("schedule", [linear, quadratic])
def test_betas_start_and_end_where_they_are_told(schedule):
    betas = schedule(50, beta_start=1e-3, beta_end=0.3).beta
    np.testing.assert_allclose(betas[[0, -1]], [1e-3, 0.3], rtol=1e-12)


def test_cosine_is_a_squared_cosine_until_the_cap():
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine(T).alpha_bar[:-1], f[:-1] / f[0], rtol=1e-10)
    assert cosine(T).beta[-1] == pytest.approx(0.999, rel=1e-12)
    assert cosine(T, max_beta=0.5).beta.max() == pytest.approx(0.5, rel=1e-12)


@each("schedule", {name: schedule for name, schedule in ALL_SCHEDULES.items() if name != "log_snr"})
def test_betas_grow(schedule):
    assert np.all(np.diff(schedule(T).beta) > 0)


@each("schedule", ALL_SCHEDULES)
def test_from_betas_is_the_inverse_of_beta(schedule):
    np.testing.assert_allclose(from_betas(schedule(T).beta).alpha_bar, schedule(T).alpha_bar, rtol=1e-12)


def test_small_noise_survives_the_cast_to_float32():
    level = linear(T).level(1)
    assert np.float32(level.sigma) ** 2 == pytest.approx(1e-4, rel=2e-7)  # a float32 product is off by 1.7e-4


@pytest.mark.parametrize(
    "alpha_bar",
    [[1.0], [[1.0, 0.5]], [0.9, 0.5], [1.0, 0.5, 0.5], [1.0, 0.5, 0.6], [1.0, 0.0, 0.0], [1.0, -0.1], [1.0, np.nan]],
    ids=["no step", "matrix", "noisy start", "constant", "rising", "stays at zero", "negative", "nan"],
)
def test_what_is_not_a_schedule_is_refused(alpha_bar):
    with pytest.raises(ValueError, match="alpha_bar"):
        NoiseSchedule(alpha_bar)


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.0, 1.5])
def test_betas_lie_between_zero_and_one(beta):
    """But for the last one, which may be 1."""
    with pytest.raises(ValueError, match="alpha_bar"):
        from_betas([0.1, beta, 0.2])


def test_a_schedule_cannot_be_changed():
    alpha_bar = np.array([1.0, 0.5])
    schedule = NoiseSchedule(alpha_bar)
    alpha_bar[1] = 0.9
    assert schedule.alpha_bar[1] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        schedule.alpha_bar[1] = 0.9
    with pytest.raises(FrozenInstanceError):
        schedule.alpha_bar = alpha_bar


def test_a_schedule_is_equal_to_itself_alone():
    """So that it is a key of a dict, and a static argument of a compiled function."""
    schedule = linear(3)
    assert schedule == schedule
    assert schedule != linear(3)
    assert {schedule: 1}[schedule] == 1


@each("schedule", ALL_SCHEDULES)
def test_levels_at_integers_are_the_table(schedule):
    schedule = schedule(T)
    level = schedule.level(np.arange(T + 1))
    np.testing.assert_array_equal(level.t, np.arange(T + 1))
    np.testing.assert_allclose(level.signal**2, schedule.alpha_bar, rtol=1e-12)
    np.testing.assert_allclose(level.sigma**2, 1 - schedule.alpha_bar, rtol=1e-12)


@each("schedule", ALL_SCHEDULES)
def test_levels_between_integers_are_linear_in_log_snr(x64, schedule):
    schedule = schedule(20)
    lower, upper = schedule.log_snr[:-1], schedule.log_snr[1:]
    for part in (0.0, 0.25, 0.7, 1.0):
        level = schedule.level(np.arange(1, 20) + part)
        np.testing.assert_allclose(level.log_snr, (1 - part) * lower + part * upper, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(level.signal**2 + level.sigma**2, 1, rtol=1e-14)


def test_clean_data_is_the_level_at_zero():
    level = linear(T).level(0)
    assert (level.t, level.signal, level.sigma) == (0, 1, 0)


@pytest.mark.parametrize("t", [0.5, -1, 10.5, 11, np.nan, [1, 0.999]])
def test_there_is_no_level_outside_the_grid(t):
    with pytest.raises(ValueError, match=r"\[1, 10\]"):
        linear(10).level(t)


def test_log_snr_is_that_of_alpha_bar():
    schedule = from_betas([0.5, 0.5])
    np.testing.assert_allclose(schedule.log_snr, np.log([0.5 / 0.5, 0.25 / 0.75]), rtol=1e-12, atol=1e-12)


@each("schedule", ALL_SCHEDULES)
@PROPERTY
@given(timesteps=subsets)
def test_any_subset_of_times_is_a_chain_with_the_same_end(schedule, timesteps):
    schedule = schedule(40)
    transitions = schedule.transitions(timesteps)
    np.testing.assert_array_equal(transitions.now.t, timesteps[:-1])
    np.testing.assert_array_equal(transitions.next.t, timesteps[1:])
    assert np.prod(1 - transitions.beta) == pytest.approx(schedule.alpha_bar[timesteps[0]], rel=1e-10)


@each("schedule", ALL_SCHEDULES)
@PROPERTY
@given(timesteps=subsets)
def test_variances_of_any_chain_are_the_papers(schedule, timesteps):
    alpha_bar = np.array(alpha_bar_of(schedule(40).beta))
    now, next = alpha_bar[timesteps[:-2]], alpha_bar[timesteps[1:-1]]
    beta = 1 - now / next
    transitions = pick(schedule(40).transitions(timesteps), slice(-1))
    np.testing.assert_allclose(transitions.beta, beta, rtol=1e-9)
    np.testing.assert_allclose(transitions.log_var_large, np.log(beta), rtol=1e-9)
    np.testing.assert_allclose(transitions.log_var_small, np.log((1 - next) / (1 - now) * beta), rtol=1e-9)


@each("schedule", ALL_SCHEDULES)
def test_the_default_chain_takes_every_time(schedule):
    transitions = schedule(40).transitions()
    np.testing.assert_array_equal(transitions.now.t, np.arange(40, 0, -1))
    np.testing.assert_allclose(transitions.beta, schedule(40).beta[::-1], rtol=1e-9)


@pytest.mark.parametrize("timesteps", [None, [40, 30, 7, 0], [2, 1, 0], [9, 0.5 + 1, 0]], ids=str)
def test_at_time_zero_the_posterior_variance_before_stands_in_for_that_which_is_zero(timesteps):
    """Ho et al.'s code: the log variance of the first time is that of the posterior at the second."""
    schedule = linear(40)
    transitions = schedule.transitions(timesteps)
    before = pick(transitions, -2)
    posterior_var = before.next.sigma**2 / before.now.sigma**2 * before.beta
    np.testing.assert_allclose(transitions.log_var_small[-1], np.log(posterior_var), rtol=1e-12)
    np.testing.assert_allclose(transitions.log_var_large, np.log(transitions.beta), rtol=1e-12)
    np.testing.assert_allclose(transitions.beta[-1], 1 - transitions.now.signal[-1] ** 2, rtol=1e-12)


def test_a_single_move_to_clean_data_has_variance_beta():
    transition = pick(linear(40).transitions([40, 0]), 0)
    assert transition.log_var_small == transition.log_var_large == np.log(transition.beta)


def test_a_piece_of_a_chain_needs_no_stand_in():
    piece, whole = linear(40).transitions([20, 10, 5]), linear(40).transitions([20, 10, 5, 2, 0])
    jax.tree.map(np.testing.assert_array_equal, piece._replace(left=0), pick(whole, slice(2))._replace(left=0))
    assert np.all(np.isinf(piece.left))
    np.testing.assert_array_equal(whole.left, [4, 3, 2, 1])


@pytest.mark.parametrize("timesteps", [[5], [], [5, 5, 0], [0, 5], [5, 6, 0], [[5, 0]]], ids=str)
def test_times_that_do_not_fall_are_no_chain(timesteps):
    with pytest.raises(ValueError, match="chain"):
        linear(10).transitions(timesteps)


def test_encoding_is_the_chain_upwards():
    up, down = linear(40).encoding([40, 12, 3, 1]), linear(40).transitions([40, 12, 3, 1])
    np.testing.assert_array_equal(up.now.t, [1, 3, 12])
    np.testing.assert_array_equal(up.next.t, [3, 12, 40])
    np.testing.assert_array_equal(up.now.sigma, down.next.sigma[::-1])
    np.testing.assert_array_equal(up.beta, down.beta[::-1])
    with pytest.raises(ValueError, match="t = 1"):
        linear(40).encoding([40, 1, 0])

"""Schedules in continuous time: levels between the integers in a compiled program, and schedules that end in noise."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import kstest, truncnorm
from support.analytic import ALL_GRIDS, ALL_SCHEDULES, GAUSSIAN, MIXTURE, TO_NOISE, each, keys, normal, pick

from ddpm_jax.diffusion import schedules, time_sampling, timesteps
from ddpm_jax.diffusion.continuous import times_of, transitions_at
from ddpm_jax.diffusion.losses import edm_weight, flow_weight, l_simple, v_weight, x_0_weight
from ddpm_jax.diffusion.prediction import Target, as_denoiser
from ddpm_jax.diffusion.samplers import (
    Variance,
    adams_bashforth,
    ancestral,
    ddim,
    deis,
    dpm_solver_pp_2m,
    dpm_solver_pp_3m,
    heun,
    langevin_corrector,
    repaint,
    sample,
    unipc,
)

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

EVERY = {**ALL_SCHEDULES, **TO_NOISE}
TIMES = np.array([1, 1.2, 2, 7.35, 29.01, 38.5, 39, 39.4, 39.99, 40])


@each("schedule", EVERY)
def test_a_compiled_program_has_the_levels_and_transitions_of_the_host(schedule):
    made = schedule(40)
    found = jax.jit(transitions_at)(made.transitions(), jnp.asarray(TIMES))
    exact = made.between(TIMES[1:], np.ceil(TIMES[1:]) - 1)
    for name in ("now", "next", "beta", "log_var_small", "log_var_range"):
        expected, got = (jax.tree.leaves(getattr(step, name)) for step in (exact, pick(found, slice(1, None))))
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-12)


@each("schedule", EVERY)
def test_integer_times_have_the_table_itself(schedule):
    table = schedule(40).transitions()
    found = transitions_at(table, jnp.arange(40.0, 0, -1))
    jax.tree.map(np.testing.assert_array_equal, found, table)


@each("schedule", EVERY)
def test_float32_is_enough_for_the_levels_between(schedule):
    with jax.enable_x64(False):
        table = jax.tree.map(np.float32, schedule(1000).transitions())
        times = np.linspace(1.01, 999.9, 500)
        found = jax.jit(transitions_at)(table, jnp.asarray(times, jnp.float32))
    exact = schedule(1000).level(times)
    np.testing.assert_allclose(found.now.sigma, exact.sigma, rtol=2e-5)
    np.testing.assert_allclose(found.now.signal, exact.signal, rtol=2e-3, atol=1e-6)  # at float32's own time


@each("schedule", EVERY)
def test_the_time_of_a_log_snr_is_that_of_the_host(schedule):
    made = schedule(40)
    log_snr = np.asarray(made.level(TIMES).log_snr)[:-1]
    np.testing.assert_allclose(times_of(made)(jnp.asarray(log_snr)), TIMES[:-1], rtol=1e-9)
    np.testing.assert_allclose(made.time(log_snr), TIMES[:-1], rtol=1e-9)


@each("schedule", TO_NOISE)
def test_a_schedule_may_end_in_noise(schedule):
    made = schedule(40)
    assert made.ends_in_noise
    assert made.alpha_bar[-1] == 0
    end = made.level(40)
    assert (end.signal, end.sigma) == (0, 1)
    assert made.time(-np.inf) == 40
    near = made.level(np.linspace(38, 40, 2001))
    assert np.abs(np.diff(near.signal)).max() < 2e-3  # no jump at T - 1
    assert np.all(np.diff(near.signal) < 0)
    first = pick(made.transitions([40, 13, 0]), 0)
    assert first.beta == 1
    assert first.log_var_small == pytest.approx(2 * np.log(first.next.sigma))


def test_the_straight_path_is_that_of_flow_matching():
    s = np.array([0.1, 0.5, 0.9])
    level = schedules.straight(10).level(10 * s)
    np.testing.assert_allclose(level.sigma / (level.signal + level.sigma), s, rtol=1e-12)


def test_a_shift_is_that_of_the_papers():
    """Of the log-SNR by `2 log(factor)` (Hoogeboom et al. 2023); of straight times as in Esser et al. 2024, eq. 23."""
    cosine, t = schedules.cosine(50), np.arange(1, 10)
    np.testing.assert_allclose(schedules.shifted(cosine, 2.0).log_snr, cosine.log_snr - 2 * np.log(2), rtol=1e-9)
    level = schedules.shifted(schedules.straight(10), 3.0).level(t)
    np.testing.assert_allclose(level.sigma / (level.signal + level.sigma), 3 * (t / 10) / (1 + 2 * t / 10), rtol=1e-12)
    with pytest.raises(ValueError, match="above 0"):
        schedules.shifted(cosine, 0)


def test_zero_terminal_snr_is_algorithm_1_of_its_paper():
    signal = np.sqrt(schedules.linear(1000).alpha_bar[1:])
    changed = np.sqrt(schedules.zero_terminal_snr(schedules.linear(1000)).alpha_bar[1:])
    expected = signal.copy()  # Lin et al. 2024, algorithm 1, line by line
    expected -= expected[-1]
    expected *= signal[0] / (signal[0] - signal[-1])
    np.testing.assert_allclose(changed, expected, rtol=1e-12)
    assert changed[0] == pytest.approx(signal[0], rel=1e-12)
    with pytest.raises(ValueError, match="one step"):
        schedules.zero_terminal_snr(schedules.from_betas([0.5]))


def test_log_snr_is_linear():
    np.testing.assert_allclose(
        schedules.log_snr(40, first=9, last=-4).log_snr, np.linspace(9, -4, 40), rtol=1e-9, atol=1e-12
    )


@each("grid", ALL_GRIDS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_every_grid_has_its_steps_on_a_schedule_that_ends_in_noise(grid, num_steps):
    times = grid(schedules.straight(40), num_steps)
    assert len(times) == num_steps + 1
    assert times[-1] == 0
    assert np.all(np.diff(times) < 0)
    assert times[0] == 40 or grid is timesteps.leading


SAMPLERS = {
    "small": ancestral(Variance.SMALL),
    "ddim": ddim(),
    "stochastic": ddim(1.0),
    "heun": heun(),
    "2m": dpm_solver_pp_2m(),
    "2m of the SDE": dpm_solver_pp_2m(1.0),
    "3m": dpm_solver_pp_3m(),
    "unipc": unipc(),
    "deis": deis(),
    "adams_bashforth": adams_bashforth(),
    "corrected": langevin_corrector(ddim()),
}


@each("sampler", SAMPLERS)
def test_samplers_reach_the_mixture_from_noise_without_signal(sampler):
    made = schedules.zero_terminal_snr(schedules.linear(1000))
    chain, num = made.transitions(timesteps.trailing(made, 100)), 4000
    x = jax.jit(partial(sample, sampler, MIXTURE.denoiser, transitions=chain))(keys(num), x_T=normal(num, 2, seed=1))
    np.testing.assert_allclose(np.mean(x, 0), MIXTURE.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), MIXTURE.covariance, atol=0.05)


def test_a_part_of_an_image_is_filled_in_from_noise_without_signal():
    chain = schedules.straight(40).transitions(np.array([40, 20, 5, 0]))
    x = sample(
        repaint(ddim(), np.zeros(2), np.array([1.0, 0.0])),
        MIXTURE.denoiser,
        keys(5),
        x_T=normal(5, 2),
        transitions=chain,
    )
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x[:, 0], 0)


def test_the_flow_is_the_derivative_of_the_straight_path():
    """The velocity of the exact denoiser, integrated along the straight path, against Heun's method in few steps."""
    made = schedules.straight(1000)

    def velocity(s, point):
        level = made.level(1000 * s)
        x_t = jnp.reshape(point, (3, 3)) * (level.signal + level.sigma)
        exact = GAUSSIAN.denoiser(x_t, level)
        return np.ravel(Target.FLOW.of(exact.x_0, exact.eps, level))

    start = normal(3, 3)
    integrated = solve_ivp(velocity, (1, 1e-3), start.ravel(), rtol=1e-8, atol=1e-10).y[:, -1].reshape(3, 3)
    chain = made.transitions(np.append(np.linspace(1000, 1, 800), 0))
    x_1 = sample(heun(), GAUSSIAN.denoiser, keys(3), x_T=start, transitions=pick(chain, slice(-1)))
    end = made.level(1)
    np.testing.assert_allclose(x_1 / (end.signal + end.sigma), integrated, atol=2e-5)


@pytest.mark.parametrize("weight", [v_weight, x_0_weight, flow_weight, edm_weight(0.5)])
def test_the_loss_of_noise_without_signal_is_that_of_x_0(weight):
    """All of these weights are infinite there, and the product with the error of the noise, 0, is finite."""
    images, step = normal(4, 2, 2, 1), pick(schedules.straight(40).transitions(), 0)
    step = jax.tree.map(lambda leaf: np.full(4, leaf), step)

    def loss(scale):
        network = lambda variables, x_t, index, label: scale * jnp.ones_like(x_t)
        made = l_simple(weight, ends_in_noise=True)
        return jnp.mean(made(as_denoiser(network, {}, Target.X_0), images, keys(4), step)["loss"])

    value, slope = jax.value_and_grad(loss)(0.3)
    factor = 4 if weight not in (v_weight, x_0_weight, flow_weight) else 1
    assert value == pytest.approx(factor * np.mean((images - 0.3) ** 2), rel=1e-8)
    assert slope == pytest.approx(factor * np.mean(2 * (0.3 - images)), rel=1e-8)


def draws(method, num=4096, state=None):
    state = method.init() if state is None else state
    times, weights = jax.jit(method.draw, static_argnums=2)(state, jax.random.key(3), num)
    return np.asarray(times), np.asarray(weights)


@each("schedule", EVERY)
def test_times_may_be_uniform_in_log_snr(schedule):
    made = schedule(40)
    times, weights = draws(time_sampling.uniform_log_snr(made))
    log_snr, known = np.asarray(made.level(times).log_snr), made.log_snr[np.isfinite(made.log_snr)]
    assert kstest((log_snr - known[-1]) / (known[0] - known[-1]), "uniform").statistic < 1e-3  # stratified
    np.testing.assert_array_equal(weights, 1)


@pytest.mark.parametrize(("mean", "std"), [(2.4, 2.4), (0.0, 2.0)])
@each("schedule", EVERY)
def test_times_may_be_normal_in_log_snr(schedule, mean, std):
    made = schedule(40)
    times, _ = draws(time_sampling.normal_log_snr(made, mean=mean, std=std))
    assert times.min() >= 1
    assert times.max() <= 40
    ends = (made.log_snr[[-1, 0]] - mean) / std
    log_snr = np.asarray(made.level(times).log_snr)
    assert kstest(log_snr, truncnorm(*ends, mean, std).cdf).statistic < 2e-3


def test_the_log_normal_of_edm_and_the_logit_normal_of_the_straight_path():
    """`ln sigma` has mean -1.2 and standard deviation 1.2; `logit(s)` has mean 0 and standard deviation 1."""
    wide = schedules.log_snr(1000, first=30, last=-30)
    level = wide.level(draws(time_sampling.normal_log_snr(wide, mean=2.4, std=2.4))[0])
    log_sigma = np.log(level.sigma / level.signal)
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=2e-3)
    level = wide.level(draws(time_sampling.normal_log_snr(wide, mean=0.0, std=2.0))[0])
    s = level.sigma / (level.signal + level.sigma)
    logit = np.log(s / (1 - s))
    np.testing.assert_allclose([logit.mean(), logit.std()], [0, 1], atol=2e-3)


def test_a_learned_density_lowers_the_variance_and_keeps_the_mean():
    """Kingma et al. 2021: the density tends to the root mean square of the loss, as that of importance sampling."""
    method = time_sampling.learned(100, num_parts=16)
    loss = lambda t: np.exp(-t / 20)
    state, update, draw = method.init(), jax.jit(method.update), jax.jit(method.draw, static_argnums=2)
    for i in range(3000):
        times, _ = draw(state, jax.random.key(i), 32)
        state = update(state, times, loss(np.asarray(times)))
    before, after = (draws(method, 100_000, state=s) for s in (method.init(), state))
    exact = np.mean(loss(np.linspace(1, 100, 100_001)))
    for times, weights in (before, after):
        assert np.mean(weights * loss(times)) == pytest.approx(exact, rel=2e-3)
    variance = [np.var(weights * loss(times)) for times, weights in (before, after)]
    assert variance[1] < 0.1 * variance[0]
    edges = np.linspace(1, 100, 17)
    share = np.histogram(after[0], edges)[0] / 100_000
    mean_square = np.array([np.mean(loss(np.linspace(a, b, 101)) ** 2) for a, b in itertools.pairwise(edges)])
    best = np.sqrt(mean_square) / np.sqrt(mean_square).sum()
    np.testing.assert_allclose(share, 0.99 * best + 0.01 / 16, rtol=0.25, atol=2e-3)

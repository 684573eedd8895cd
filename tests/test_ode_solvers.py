"""Solvers of the probability-flow ODE against the flow of a Gaussian, which is known.

Along an eigenvector of the covariance the flow scales `x_t - signal m` by the standard deviation that noisy images
have there, so that it is exact between any two times.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import GAUSSIAN, MIXTURE, each, keys, normal, pick
from support.measures import assert_drawn_from, order

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.samplers import (
    adams_bashforth,
    ddim,
    deis,
    dpm_solver_pp_2m,
    dpm_solver_pp_3m,
    heun,
    ode_coordinates,
    ode_derivative,
    sample,
    unipc,
)
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
SECOND_ORDER = {"heun": heun(), "dpm_solver_pp_2m": dpm_solver_pp_2m()}
LOOKING_BACK = {
    "dpm_solver_pp_3m": dpm_solver_pp_3m(),
    "deis": deis(),
    "adams_bashforth": adams_bashforth(),
    "unipc": unipc(),
    "stochastic 2M": dpm_solver_pp_2m(1.0),
    "stochastic 3M": dpm_solver_pp_3m(0.5),
}
ORDERS = {"ddim": (ddim(), 1), "heun": (heun(), 2), "dpm_solver_pp_2m": (dpm_solver_pp_2m(), 2)}


def exact_flow(gaussian, x, start, end):
    """Where the flow takes x from one noise level to another."""
    eigenvalues, basis = np.linalg.eigh(gaussian.covariance)
    std = [np.sqrt(level.signal**2 * eigenvalues + level.sigma**2) for level in (start, end)]
    return end.signal * gaussian.mean + ((x - start.signal * gaussian.mean) @ basis * std[1] / std[0]) @ basis.T


def times_above_zero(schedule, num_steps, grid=timesteps.log_snr):
    """Float times from T to 1 for so many moves."""
    return grid(schedule, num_steps + 1)[:-1]


@cache
def compiled(solver, denoise):
    return jax.jit(partial(sample, solver, denoise))


def walk(solver, x, transitions, denoise=GAUSSIAN.denoiser):
    return compiled(solver, denoise)(keys(len(x)), x_T=x, transitions=transitions)


def test_the_slope_is_the_derivative_of_the_exact_flow():
    """`d x_bar / ds = eps`, by a central difference of the closed form."""
    level, x = SCHEDULE.level(400.0), normal(6, 3)
    ahead, behind = SCHEDULE.level(400.001), SCHEDULE.level(399.999)
    ends = [ode_coordinates(exact_flow(GAUSSIAN, x, level, end), end) for end in (ahead, behind)]
    difference = (ends[0][0] - ends[1][0]) / (ends[0][1] - ends[1][1])
    x_bar, s = ode_coordinates(x, level)
    np.testing.assert_allclose(ode_derivative(GAUSSIAN.denoiser, x_bar, level), difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(x_bar * level.signal, x)
    assert s == pytest.approx(np.exp(-level.log_snr / 2), rel=1e-12)


@each("solver", ORDERS)
@pytest.mark.parametrize(
    ("schedule", "up"),
    [(SCHEDULE, False), (SCHEDULE, True), (cosine(1000), False)],
    ids=["linear-down", "linear-up", "cosine-down"],
)
def test_solvers_converge_with_their_order(solver, schedule, up):
    solver, expected = solver
    top, bottom, steps = schedule.level(1000), schedule.level(1), [60, 120, 240]
    start, end = (bottom, top) if up else (top, bottom)
    x = 0.5 * normal(20, 3)
    errors = []
    for num_steps in steps:
        times = times_above_zero(schedule, num_steps)
        transitions = schedule.encoding(times) if up else schedule.transitions(times)
        errors.append(np.sqrt(np.mean((walk(solver, x, transitions) - exact_flow(GAUSSIAN, x, start, end)) ** 2)))
    assert order(steps, errors) == pytest.approx(-expected, abs=0.15)
    assert errors[-1] < (0.03 if expected == 1 else 1e-3)


@each("solver", SECOND_ORDER)
@pytest.mark.parametrize("grid", [timesteps.log_snr, timesteps.quadratic, timesteps.karras])
def test_decoding_returns_what_was_encoded(solver, grid):
    """Relative error below 1e-3, the promise, and below 2e-5, the fact, at 200 steps of the linear schedule."""
    times, x_1 = times_above_zero(SCHEDULE, 200, grid), GAUSSIAN.sample(jax.random.key(0), 50)
    x_T = walk(solver, x_1, SCHEDULE.encoding(times))
    np.testing.assert_allclose(x_T, exact_flow(GAUSSIAN, x_1, SCHEDULE.level(1), SCHEDULE.level(1000)), atol=2e-3)
    decoded = walk(solver, x_T, SCHEDULE.transitions(times))
    assert np.linalg.norm(decoded - x_1) / np.linalg.norm(x_1) < 2e-5


@each("solver", SECOND_ORDER)
def test_a_decoded_mixture_image_is_the_image(solver):
    """Also where the flow is not linear."""
    times, x_1 = times_above_zero(SCHEDULE, 200), MIXTURE.sample(jax.random.key(0), 50)
    x_T = walk(solver, x_1, SCHEDULE.encoding(times), MIXTURE.denoiser)
    decoded = walk(solver, x_T, SCHEDULE.transitions(times), MIXTURE.denoiser)
    assert np.linalg.norm(decoded - x_1) / np.linalg.norm(x_1) < 1e-3


@each("solver", SECOND_ORDER)
def test_the_last_move_is_eulers_and_ends_at_the_estimate_of_x_0(solver):
    x_t, transitions = normal(5, 2), SCHEDULE.transitions([40.5, 0])
    estimate = MIXTURE.denoiser(jnp.asarray(x_t), pick(transitions.now, 0)).x_0
    np.testing.assert_allclose(walk(solver, x_t, transitions, MIXTURE.denoiser), estimate, rtol=1e-9)


@each("solver", SECOND_ORDER)
def test_any_step_is_exact_for_data_at_a_point(solver):
    """There x_0 is constant along the flow and the noise too, so that one move goes all the way."""
    point = Gaussian([0.6, -0.2], np.zeros((2, 2)))
    x_T = normal(5, 2)
    level = SCHEDULE.level(10)
    eps = (x_T - SCHEDULE.level(1000).signal * point.mean) / SCHEDULE.level(1000).sigma
    for times in ([1000, 10], [1000, 500.5, 10]):
        x = walk(solver, x_T, SCHEDULE.transitions(times), point.denoiser)
        np.testing.assert_allclose(x, level.signal * point.mean + level.sigma * eps, rtol=1e-9)


def counted(denoise, calls):
    def count(x_t, level):
        jax.debug.callback(lambda t: calls.append(float(t)), level.t)
        return denoise(x_t, level)

    return count


@each("solver", ORDERS)
def test_network_evaluations_of_a_chain(solver):
    """Heun asks twice a move and once for the last, the others once."""
    calls = []
    denoise, transitions = counted(MIXTURE.denoiser, calls), SCHEDULE.transitions(timesteps.uniform(SCHEDULE, 6))
    jax.block_until_ready(sample(solver[0], denoise, keys(3), x_T=normal(3, 2), transitions=transitions))
    jax.effects_barrier()
    assert len(calls) == (11 if solver is ORDERS["heun"] else 6)


def test_dpm_solver_is_algorithm_2_of_its_paper():
    """In NumPy, with `lambda = log(signal / sigma)`, h and r as in Lu et al. 2022."""
    times = np.array([900.0, 600.0, 350.0, 40.0, 1.0])
    a = SCHEDULE.level(times)
    lam = np.log(a.signal / a.sigma)
    x_T = x = normal(5, 2)
    data = [np.asarray(MIXTURE.denoiser(jnp.asarray(x), pick(a, 0)).x_0)]
    for i in range(1, 5):
        h = lam[i] - lam[i - 1]
        if i == 1:
            D = data[0]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = a.sigma[i] / a.sigma[i - 1] * x - a.signal[i] * (np.exp(-h) - 1) * D
        data.append(np.asarray(MIXTURE.denoiser(jnp.asarray(x), pick(a, i)).x_0))
    ours = walk(dpm_solver_pp_2m(), x_T, SCHEDULE.transitions(times), MIXTURE.denoiser)
    np.testing.assert_allclose(ours, x, rtol=1e-9)


@each("solver", {**SECOND_ORDER, **LOOKING_BACK})
def test_solvers_reach_the_mixture(solver):
    schedule, num = cosine(1000), 2000
    transitions = schedule.transitions(timesteps.log_snr(schedule, 60))
    assert_drawn_from(MIXTURE, walk(solver, normal(num, 2, seed=1), transitions, MIXTURE.denoiser))


@each("solver", SECOND_ORDER)
def test_solvers_work_in_float32(solver):
    with jax.enable_x64(False):
        times, x = times_above_zero(SCHEDULE, 80), normal(20, 3).astype(np.float32)
        transitions = jax.tree.map(np.float32, SCHEDULE.transitions(times))
        flowed = walk(solver, x, transitions)
        assert flowed.dtype == np.float32
    exact = exact_flow(GAUSSIAN, x, SCHEDULE.level(1000), SCHEDULE.level(1))
    np.testing.assert_allclose(flowed, exact, atol=5e-3)

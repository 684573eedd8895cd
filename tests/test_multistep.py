"""Multistep solvers against the flow of a Gaussian, the closed forms of their papers, and the mixture."""

import operator
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import GAUSSIAN, MIXTURE, each, keys, normal, pick
from support.measures import order

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.samplers import (
    adams_bashforth,
    advance,
    ancestral,
    ddim,
    deis,
    dpm_solver_pp_2m,
    dpm_solver_pp_3m,
    sample,
    unipc,
)
from ddpm_jax.diffusion.samplers.ancestral import Variance
from ddpm_jax.diffusion.samplers.driver import SamplerState
from ddpm_jax.diffusion.samplers.multistep import ALONG_SIGMA, OF_EPS, Past, correction, half_log_snr, of_x_0
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
FORMS = {"x_0": of_x_0(), "eps": OF_EPS, "eps along sigma": ALONG_SIGMA}
# Each with its form and its order.
SOLVERS = {
    "dpm_solver_pp_2m": (dpm_solver_pp_2m(), of_x_0(), 2),
    "dpm_solver_pp_3m": (dpm_solver_pp_3m(), of_x_0(), 3),
    "deis_2": (deis(2), OF_EPS, 2),
    "deis_3": (deis(3), OF_EPS, 3),
    "adams_bashforth_2": (adams_bashforth(2), ALONG_SIGMA, 2),
    "adams_bashforth_3": (adams_bashforth(3), ALONG_SIGMA, 3),
    "adams_bashforth_4": (adams_bashforth(4), ALONG_SIGMA, 4),
}
CORRECTED = {"unipc_1": (unipc(1), 2), "unipc_2": (unipc(2), 3), "unipc_3": (unipc(3), 4)}
THIRD = {name: SOLVERS[name][0] for name in ("dpm_solver_pp_3m", "deis_3", "adams_bashforth_3")} | {"unipc_3": unipc(3)}


def exact_flow(x, start, end):
    """Where the flow of the Gaussian takes x from one noise level to another."""
    eigenvalues, basis = np.linalg.eigh(GAUSSIAN.covariance)
    std = [np.sqrt(level.signal**2 * eigenvalues + level.sigma**2) for level in (start, end)]
    return end.signal * GAUSSIAN.mean + ((x - start.signal * GAUSSIAN.mean) @ basis * std[1] / std[0]) @ basis.T


@cache
def compiled(solver, denoise):
    return jax.jit(partial(sample, solver, denoise))


def walk(solver, x, transitions, denoise=GAUSSIAN.denoiser):
    return compiled(solver, denoise)(keys(len(x)), x_T=x, transitions=transitions)


def exact_start(form, transitions, x, before):
    """A state after so many steps of the exact flow, with the values that a solver would remember of them."""
    levels = [pick(transitions.now, i) for i in range(before + 1)]
    places = [jnp.asarray(exact_flow(x, levels[0], level)) for level in levels]
    values = [form.value(GAUSSIAN.denoiser(place, level)) for place, level in zip(places, levels, strict=True)]
    positions = [jnp.full(len(x), form.position(level)) for level in levels]
    count = jnp.full(len(x), float(before))
    return SamplerState(places[-1], Past(tuple(values[before - 1 :: -1]), tuple(positions[before - 1 :: -1]), count))


@each("solver", SOLVERS)
@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_with_exact_values_to_start_from_a_solver_has_its_order(solver, up):
    """The first steps have lower orders, which would be that of the whole. From 1 to T errors of third order cancel."""
    sampler, form, expected = solver
    x, errors, steps = 0.5 * normal(20, 3), [], [80, 160, 320]
    for num_steps in steps:
        times = SCHEDULE.time(np.linspace(SCHEDULE.level(900).log_snr, SCHEDULE.level(100).log_snr, num_steps + 1))
        transitions, before = SCHEDULE.encoding(times) if up else SCHEDULE.transitions(times), expected - 1
        state = exact_start(form, transitions, x, before)
        indexed = jax.tree.map(operator.itemgetter(slice(before, None)), (np.arange(num_steps), transitions))
        end = jax.jit(partial(advance, sampler, GAUSSIAN.denoiser))(keys(20), state=state, indexed=indexed).state.x
        exact = exact_flow(x, pick(transitions.now, 0), pick(transitions.next, -1))
        errors.append(np.sqrt(np.mean((end - exact) ** 2)))
    assert order(steps, errors) == pytest.approx(-expected, abs=0.15)


@each("solver", CORRECTED)
def test_a_corrector_raises_the_order_by_one(solver):
    """Its first steps, which have lower orders, are corrected too, so the whole chain has the order."""
    solver, expected = solver
    x, errors, steps = 0.5 * normal(20, 3), [], [120, 240, 480]
    for num_steps in steps:
        transitions = SCHEDULE.transitions(timesteps.log_snr(SCHEDULE, num_steps + 1)[:-1])
        exact = exact_flow(x, SCHEDULE.level(1000), SCHEDULE.level(1))
        errors.append(np.sqrt(np.mean((walk(solver, x, transitions) - exact) ** 2)))
    assert order(steps, errors) == pytest.approx(-expected, abs=0.25)


@each("form", FORMS)
@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_polynomial_of_the_degree_is_integrated_exactly(form, known):
    """By a fine sum of its product with the density."""
    form = form._replace(midpoint=False)
    now, next = SCHEDULE.level(700.0), SCHEDULE.level(500.0)
    begin, end = form.position(now), form.position(next)
    positions = [float(form.position(SCHEDULE.level(t))) for t in (800.0, 850.0, 990.0)]
    coefficients = np.random.default_rng(0).normal(size=known)  # of degrees 1 to `known`
    polynomial = lambda position: sum(c * (position - begin) ** (i + 1) for i, c in enumerate(coefficients))
    value, column = jnp.array([[0.7]]), lambda number: jnp.array([[number + 0.7]])
    others = Past(
        tuple(column(polynomial(position)) for position in positions),
        tuple(jnp.array([position]) for position in positions),
        jnp.array([float(known)]),
    )
    middles = (np.arange(20_000) + 0.5) / 20_000 * (end - begin)
    density = np.broadcast_to(form.density(next, middles, end - begin), middles.shape)
    expected = np.mean(density * polynomial(begin + middles)) * (end - begin)
    ours = correction(form, value, others, begin=begin, next=next)
    np.testing.assert_allclose(ours, [[expected]], rtol=1e-6)


def test_third_order_has_the_coefficients_of_the_phi_functions():
    """`phi_2 h x_0' + 2 phi_3 h**2 x_0'' / 2` with the derivatives of the parabola: Lu et al. 2022, eq. 3.12."""
    lam = np.array([1.3, 1.0, 0.4, 0.1])  # of s, t, and before
    x_0 = np.random.default_rng(0).normal(size=3)
    h, h_0, h_1 = -np.diff(lam)
    first, second = (x_0[0] - x_0[1]) / h_0, (x_0[1] - x_0[2]) / h_1
    curvature = (first - second) / (h_0 + h_1)
    phi_2 = (np.exp(-h) - 1) / h + 1
    phi_3 = (np.exp(-h) - 1 + h) / h**2 - 0.5
    expected = phi_2 * h * (first + h_0 * curvature) - 2 * phi_3 * h**2 * curvature
    level = SCHEDULE.level(SCHEDULE.time(2 * lam[0]))
    others = Past(tuple(x_0[1:, None, None]), tuple(jnp.array([lam[i]]) for i in (2, 3)), jnp.array([2.0]))
    ours = correction(of_x_0(), x_0[:1, None], others, begin=lam[1], next=level)
    np.testing.assert_allclose(ours / level.signal, [[expected]], rtol=1e-6)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_stochastic_form_is_that_of_its_paper(eta):
    """Without its noise: Lu et al. 2022, appendix (SDE-DPM-Solver++ 2M), in NumPy, for any share of the noise."""
    times = [900.0, 600.0, 350.0]
    a = SCHEDULE.level(times)
    lam, x, sampler = np.log(a.signal / a.sigma), normal(4, 2), dpm_solver_pp_2m(eta)
    transitions, state, data = SCHEDULE.transitions(times), sampler.init(jnp.asarray(normal(4, 2))), []
    for i in range(2):
        h = lam[i + 1] - lam[i]
        data.append(np.asarray(MIXTURE.denoiser(state.x, pick(a, i)).x_0))
        D = data[-1] if i == 0 else data[-1] + h / (2 * (lam[i] - lam[i - 1])) * (data[-1] - data[-2])
        x = a.sigma[i + 1] / a.sigma[i] * np.exp(-eta * h) * state.x + a.signal[i + 1] * -np.expm1(-(1 + eta) * h) * D
        std = a.sigma[i + 1] * np.sqrt(-np.expm1(-2 * eta * h))
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,), float))(keys(4))
        state, _ = sampler.step(MIXTURE.denoiser, keys(4), state, pick(transitions, i))
        np.testing.assert_allclose(state.x, x + std * noise, rtol=1e-9)


def test_of_first_order_the_stochastic_form_is_ancestral_sampling():
    first, x = SCHEDULE.transitions([700.0, 500.0]), normal(5, 2)
    ours = walk(dpm_solver_pp_2m(1.0), x, first, MIXTURE.denoiser)
    np.testing.assert_allclose(ours, walk(ancestral(Variance.SMALL), x, first, MIXTURE.denoiser), rtol=1e-9)


def test_unipc_is_algorithm_5_of_its_paper():
    """UniPC-2 in NumPy, with B_2(h) = e^h - 1 and the systems of equations that give the weights."""
    times = np.array([900.0, 700.0, 450.0, 200.0, 40.0, 3.0])
    a, x = SCHEDULE.level(times), normal(5, 2)
    lam = np.log(a.signal / a.sigma)
    denoise = lambda x, i: np.asarray(MIXTURE.denoiser(jnp.asarray(x), pick(a, i)).x_0)
    data, seen = [denoise(x, 0)], []
    for i in range(1, 6):
        h = lam[i] - lam[i - 1]
        linear_part = a.sigma[i] / a.sigma[i - 1] * x - a.signal[i] * np.expm1(-h) * data[-1]
        B, phi_1 = np.expm1(-h), np.expm1(-h) / -h - 1
        phi_2 = phi_1 / -h - 0.5
        r = [(lam[i - 2] - lam[i - 1]) / h] if i > 1 else []
        D = [(data[-2] - data[-1]) / r[0]] if i > 1 else []
        predicted = linear_part - a.signal[i] * B * sum((0.5 * d for d in D), np.zeros(2))
        new = denoise(predicted, i)
        rho = np.linalg.solve([[1, 1], [*r, 1]], [phi_1 / B, 2 * phi_2 / B]) if i > 1 else [0.5]
        corrected = sum((p * d for p, d in zip(rho, [*D, new - data[-1]], strict=True)), np.zeros(2))
        x = linear_part - a.signal[i] * B * corrected
        data.append(new)
        seen.append(predicted)
    trajectory = sample(
        unipc(2), MIXTURE.denoiser, keys(5), x_T=normal(5, 2), transitions=SCHEDULE.transitions(times), trajectory=True
    )
    np.testing.assert_allclose(trajectory[1:], seen, rtol=1e-8)


@each("solver", THIRD)
def test_towards_a_clean_image_the_order_falls(solver):
    """The last step is Euler's; the one before it, whose predictions are those of three steps, is of second order."""
    times = [40.5, 30.0, 20.0, 10.0, 0]
    transitions, x = SCHEDULE.transitions(times), normal(5, 2)
    np.testing.assert_array_equal(transitions.left, [4, 3, 2, 1])
    trajectory = sample(solver, MIXTURE.denoiser, keys(5), x_T=x, transitions=transitions, trajectory=True)
    estimate = MIXTURE.denoiser(trajectory[3], pick(transitions.now, 3)).x_0
    if solver is not THIRD["adams_bashforth_3"]:  # which may go to sigma = 0 with all its order
        np.testing.assert_allclose(trajectory[4], estimate, rtol=1e-9)
    endless = SCHEDULE.transitions(times[:-1])
    assert np.all(np.isinf(endless.left))
    full = sample(solver, MIXTURE.denoiser, keys(5), x_T=x, transitions=endless, trajectory=True)
    np.testing.assert_allclose(full[:3], trajectory[:3], rtol=1e-12)
    assert np.allclose(full[3], trajectory[3], rtol=1e-9) == (solver is THIRD["adams_bashforth_3"])


@each("solver", THIRD)
def test_any_step_is_exact_for_data_at_a_point(solver):
    """There x_0 is constant along the flow and the noise too, so that any steps go all the way."""
    point, level, x_T = Gaussian([0.6, -0.2], np.zeros((2, 2))), SCHEDULE.level(10), normal(5, 2)
    eps = (x_T - SCHEDULE.level(1000).signal * point.mean) / SCHEDULE.level(1000).sigma
    x = walk(solver, x_T, SCHEDULE.transitions([1000, 800.5, 300, 10]), point.denoiser)
    np.testing.assert_allclose(x, level.signal * point.mean + level.sigma * eps, rtol=1e-9)


@each("solver", THIRD)
def test_solvers_work_in_float32(solver):
    with jax.enable_x64(False):
        times, x = timesteps.log_snr(SCHEDULE, 81)[:-1], normal(20, 3).astype(np.float32)
        flowed = walk(solver, x, jax.tree.map(np.float32, SCHEDULE.transitions(times)))
        assert flowed.dtype == np.float32
    exact = exact_flow(x, SCHEDULE.level(1000), SCHEDULE.level(1))
    np.testing.assert_allclose(flowed, exact, atol=2e-3)


@each("form", FORMS)
def test_the_first_step_is_ddim(form):
    del form
    first, x = SCHEDULE.transitions([700.0, 500.0]), normal(5, 2)
    for solver in (*THIRD.values(), dpm_solver_pp_2m()):
        expected = walk(ddim(), x, first, MIXTURE.denoiser)
        np.testing.assert_allclose(walk(solver, x, first, MIXTURE.denoiser), expected, rtol=1e-9)
    assert half_log_snr(SCHEDULE.level(500.0)) == pytest.approx(SCHEDULE.level(500.0).log_snr / 2)

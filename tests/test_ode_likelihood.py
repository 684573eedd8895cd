"""The likelihood through the probability-flow ODE against exact densities, and the traces that it takes."""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import RK45
from scipy.stats import norm
from support.analytic import GAUSSIAN, IMAGES, MIXTURE, each, keys, normal, pick

from ddpm_jax.diffusion import ode_likelihood
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.likelihood import bound_terms, prior_term_nats
from ddpm_jax.diffusion.ode_likelihood import (
    dequantised,
    exact_trace,
    gregory_weights,
    hutchinson_trace,
    ode_bound,
    ode_log_prob,
    ode_steps,
)
from ddpm_jax.diffusion.prediction import velocity
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("quick_compilation")


def spread(dims, seed=0):
    """A Gaussian of so many components, correlated, with standard deviations from 0.2 to 0.7."""
    basis, _ = np.linalg.qr(normal(dims, dims, seed=seed))
    return (basis * np.linspace(0.2, 0.7, dims) ** 2) @ basis.T


@functools.cache
def compiled(oracle, trace=exact_trace):
    """`ode_log_prob` as a function `(x_0, steps)`, compiled once for each number of steps."""
    return jax.jit(lambda x_0, steps: ode_log_prob(oracle.denoiser, x_0, steps=steps, trace=trace))


def by_ode(oracle, x_0, schedule, *, num_steps, trace=exact_trace, first=1):
    """The estimate of the log density of images at the first level."""
    return compiled(oracle, trace)(x_0, ode_steps(schedule, num_steps, first=first))


def exactly(oracle, x_0, schedule, first=1):
    """The log density of `x_t / signal` at the first level."""
    level = schedule.level(first)
    return oracle.log_prob(level.signal * x_0, level) + x_0[0].size * np.log(level.signal)


@pytest.mark.parametrize("shape", [(1,), (2, 2, 3), (8, 8, 1)], ids=str)
def test_the_ode_gives_the_exact_likelihood_of_a_gaussian(x64, shape):
    """Within 0.01 nats, of noisy images at t = 1 and of the clean ones, on any number of components."""
    dims, schedule = math.prod(shape), cosine(4000)
    oracle = Gaussian(0.1 * normal(*shape), spread(dims))
    x_0 = oracle.sample(jax.random.key(0), 4)
    ours = by_ode(oracle, x_0, schedule, num_steps=32)
    np.testing.assert_allclose(ours.nats, exactly(oracle, x_0, schedule), atol=0.01)
    np.testing.assert_allclose(ours.nats, oracle.log_prob(x_0), atol=0.01)


# Schedules at whose end the density of every analytic distribution is N(0, I) to 1e-3 nats, so that the only error is
# that of the solver.
TO_THE_END = {"linear": linear(1000, beta_end=0.05), "cosine": cosine(1000)}


@pytest.mark.parametrize("num_steps", [8, 16, 32])
@each("schedule", TO_THE_END)
@each("oracle", {"gaussian": GAUSSIAN, "mixture": MIXTURE})
def test_the_error_that_is_stated_covers_the_true_error(x64, oracle, schedule, num_steps):
    """In the mean over 64 images, also where the flow bends and the classes part; and it falls with the steps."""
    x_0 = oracle.sample(jax.random.key(0), 64)
    ours = by_ode(oracle, x_0, schedule, num_steps=num_steps)
    error = np.abs(ours.nats - exactly(oracle, x_0, schedule))
    assert error.mean() < ours.solver_error.mean() < {8: 1, 16: 0.2, 32: 0.02}[num_steps]
    assert np.mean(error <= ours.solver_error) > 0.8
    assert error.max() < {8: 0.5, 16: 0.05, 32: 0.002}[num_steps]


def test_the_scale_of_the_first_level_is_part_of_the_density(x64):
    """From a late first level, where the signal is far from 1: `p(x_0) = p(signal x_0) signal**D`."""
    schedule, x_0 = cosine(1000), GAUSSIAN.sample(jax.random.key(0), 64)
    assert 3 * np.log(schedule.level(400).signal) < -0.5
    ours = by_ode(GAUSSIAN, x_0, schedule, num_steps=32, first=400)
    np.testing.assert_allclose(ours.nats, exactly(GAUSSIAN, x_0, schedule, first=400), atol=1e-3)


def test_the_error_of_the_ode_likelihood_is_of_high_order(x64):
    """Half the steps have more than 2**4 times the error."""
    x_0, schedule = GAUSSIAN.sample(jax.random.key(0), 64), TO_THE_END["linear"]
    exact = exactly(GAUSSIAN, x_0, schedule)
    errors = [np.abs(by_ode(GAUSSIAN, x_0, schedule, num_steps=n).nats - exact).max() for n in (16, 32)]
    assert errors[0] / errors[1] > 2**4


def test_the_stages_are_those_of_dormand_and_prince():
    """As SciPy has them."""
    np.testing.assert_array_equal(ode_likelihood._TIMES, RK45.C)
    np.testing.assert_array_equal(ode_likelihood._STAGES[:, :5], RK45.A[1:])
    np.testing.assert_array_equal(ode_likelihood._FIFTH, RK45.B)
    np.testing.assert_allclose(ode_likelihood._DIFFERENCE, -RK45.E, rtol=1e-15)


@pytest.mark.parametrize(("num_steps", "degree"), [(1, 1), (2, 3), (3, 3), (4, 5), (8, 5), (9, 5)])
def test_gregorys_rule_is_exact_for_polynomials(num_steps, degree):
    """Up to its degree, and not above."""
    places, weights = np.arange(num_steps + 1), gregory_weights(num_steps)
    for power in range(degree + 1):
        assert weights @ places**power == pytest.approx(num_steps ** (power + 1) / (power + 1), rel=1e-12)
    over = (degree + 1) + (degree + 1) % 2
    assert weights @ (places - num_steps / 2) ** over != pytest.approx(
        2 * (num_steps / 2) ** (over + 1) / (over + 1), rel=1e-6
    )


def test_steps_are_even_in_number_and_in_the_tangent_of_half_the_angle():
    schedule = linear(1000)
    steps = ode_steps(schedule, 4)
    u = np.log((1 - steps.levels.signal) / steps.levels.sigma)
    ends = np.linspace(u[0, 0], u[-1, -1], 5)
    np.testing.assert_allclose(u[:, -1], ends, rtol=1e-9)
    np.testing.assert_allclose(u[1:, 0], ends[:-1], rtol=1e-9)
    np.testing.assert_allclose(u[0], ends[0])
    np.testing.assert_allclose(steps.levels.t[[0, -1], -1], [1, 1000])
    assert (steps.num_steps, steps.lengths[0]) == (4, 0)
    for wrong in (0, 1, 5):
        with pytest.raises(ValueError, match="must be even"):
            ode_steps(schedule, wrong)
    with pytest.raises(ValueError, match="first time"):
        ode_steps(schedule, 4, first=1000)


def bounded(oracle, x_0, eps, schedule, *, num_steps):
    """The estimate of the bound by the ODE with the decoder of the ancestral chain."""
    last, steps = pick(schedule.transitions(), -1), ode_steps(schedule, num_steps)

    def bound(x_0, eps):
        log_prob = ode_log_prob(oracle.denoiser, dequantised(x_0, eps, last), steps=steps)
        return ode_bound(oracle.denoiser, x_0, eps, log_prob, last=last, variance=Variance.SMALL)

    return jax.jit(bound)(x_0, eps), last


def test_the_ode_with_the_decoder_is_exact_on_images_that_noise_cannot_confuse(x64):
    """Of three images x_1 tells which: `-log P = log 3`, and L_0 for pixels at -1 and 1, the ends of open bins."""
    x_0 = jnp.asarray(IMAGES.points)
    bound, last = bounded(IMAGES, x_0, noise_like(keys(3), x_0), cosine(1000), num_steps=64)
    exact = np.log(3) - 16 * norm.logcdf(1 / 255 / np.exp(last.log_var_small / 2))
    np.testing.assert_allclose(bound.nats, exact, atol=0.01)
    assert np.all(np.abs(bound.nats - exact) <= bound.solver_error)


def test_the_ode_is_below_the_bound_with_the_same_last_term(x64):
    """The terms above L_0 are a bound on what the ODE gives exactly: the same noise at x_1, the same decoder."""
    schedule, x_0 = cosine(200), jnp.clip(MIXTURE.sample(jax.random.key(0), 256), -1, 1)
    moves = (np.arange(200), schedule.transitions())
    bound = bound_terms(MIXTURE.denoiser, x_0, keys(256), indexed=moves, variance=Variance.SMALL)["nats"]
    prior = prior_term_nats(x_0, schedule.level(200))
    ode, _ = bounded(MIXTURE, x_0, noise_like(keys(256), x_0), schedule, num_steps=32)
    gap = bound.sum(axis=0) + prior - ode.nats
    assert gap.mean() > 3 * gap.std() / 16


def flow_velocity(oracle, level):
    return lambda x: velocity(*oracle.denoiser(x, level)[:2], level)


def test_the_trace_of_float32_images_is_float32(x64):
    """Where float64 is the default, too."""
    value, trace = exact_trace(lambda x: 2 * x, jnp.ones((2, 3), jnp.float32))
    assert value.dtype == trace.dtype == jnp.float32
    np.testing.assert_array_equal(trace, [[6, 6]])


def test_the_exact_trace_is_that_of_the_jacobian(x64):
    """Of a Gaussian's velocity `signal sigma sum((1 - c) / var)` over the eigenvalues c; of a mixture's by jacfwd."""
    level, oracle = linear(1000).level(300), Gaussian(normal(2, 2, 1), spread(4))
    x, c = normal(5, 2, 2, 1), np.linalg.eigvalsh(spread(4))
    value, trace = jax.jit(partial(exact_trace, flow_velocity(oracle, level)))(jnp.asarray(x))
    expected = level.signal * level.sigma * np.sum((1 - c) / (level.signal**2 * c + level.sigma**2))
    np.testing.assert_allclose(trace[0], expected, rtol=1e-9)
    np.testing.assert_allclose(value, flow_velocity(oracle, level)(jnp.asarray(x)), rtol=1e-12)
    x = jnp.asarray(normal(5, 2))
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda x: flow_velocity(MIXTURE, level)(x[None])[0])))(x)
    trace = jax.jit(partial(exact_trace, flow_velocity(MIXTURE, level)))(x)[1][0]
    np.testing.assert_allclose(trace, np.trace(jacobians, axis1=1, axis2=2), rtol=1e-9)


def test_the_trace_is_the_same_whatever_number_of_directions_is_computed_at_once(x64, monkeypatch):
    """One, three, with a rest of one, and all 16."""
    level, oracle, x = linear(1000).level(300), Gaussian(normal(16), spread(16)), jnp.asarray(normal(2, 16))
    traces = []
    for at_once in (1, 6, 10_000):
        monkeypatch.setattr(ode_likelihood, "_AT_ONCE", at_once)
        traces.append(exact_trace(flow_velocity(oracle, level), x)[1])
    np.testing.assert_allclose(traces[1:], [traces[0]] * 2, rtol=1e-12)


@pytest.mark.parametrize("draw", [jax.random.rademacher, jax.random.normal])
def test_hutchinsons_trace_is_unbiased(x64, draw):
    level, num = linear(1000).level(300), 20_000
    oracle, x = Gaussian(np.zeros(4), spread(4)), jnp.asarray(normal(2, 4))
    probes = draw(jax.random.key(0), (num, 2, 4)).astype(float)
    value, estimates = hutchinson_trace(probes)(flow_velocity(oracle, level), x)
    exact_value, exact = exact_trace(flow_velocity(oracle, level), x)
    np.testing.assert_allclose(value, exact_value, rtol=1e-12)
    assert estimates.shape == (num, 2)
    assert np.all(estimates.std(axis=0) > 0.01)
    np.testing.assert_allclose(estimates.mean(axis=0), exact[0], atol=5 * estimates.std(axis=0).max() / np.sqrt(num))


def test_the_error_of_the_estimated_trace_is_that_of_the_mean_of_its_probes(x64):
    """Of 400 images that are the same with four probes each, the estimates have the spread that they state."""
    oracle, schedule, probes = Gaussian(np.zeros(4), spread(4)), linear(1000), normal(4, 400, 4)
    x = jnp.broadcast_to(normal(1, 4), (400, 4))
    ours = by_ode(oracle, x, schedule, num_steps=16, trace=hutchinson_trace(jnp.asarray(probes)))
    exact = by_ode(oracle, x, schedule, num_steps=16)
    assert np.all(exact.trace_error == 0)
    stated = np.sqrt(np.mean(ours.trace_error**2))
    assert np.std(ours.nats) == pytest.approx(stated, rel=0.15)
    assert np.abs(np.mean(ours.nats) - exact.nats[0]) < 4 * stated / 20


def test_signs_probe_a_diagonal_jacobian_exactly(x64):
    level, oracle = linear(1000).level(300), Gaussian(np.zeros(5), np.diag([0.1, 0.2, 0.3, 0.4, 0.5]))
    x, probes = jnp.asarray(normal(3, 5)), jax.random.rademacher(jax.random.key(0), (2, 3, 5)).astype(float)
    exact = exact_trace(flow_velocity(oracle, level), x)[1]
    estimates = hutchinson_trace(probes)(flow_velocity(oracle, level), x)[1]
    np.testing.assert_allclose(estimates, np.repeat(exact, 2, axis=0), rtol=1e-12)
    ours = by_ode(oracle, x, cosine(1000), num_steps=8, trace=hutchinson_trace(probes))
    np.testing.assert_allclose(ours.nats, by_ode(oracle, x, cosine(1000), num_steps=8).nats, rtol=1e-12)
    np.testing.assert_allclose(ours.trace_error, 0, atol=1e-12)

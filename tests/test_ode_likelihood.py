"""The likelihood through the probability-flow ODE against exact densities, and the traces that it takes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.analytic import GAUSSIAN, IMAGES, MIXTURE, keys, normal, pick

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.likelihood import (
    bound_terms,
    exact_trace,
    hutchinson_trace,
    ode_bound_nats,
    ode_log_prob_nats,
    prior_term_nats,
)
from ddpm_jax.diffusion.prediction import velocity
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.schedules import cosine, linear


def spread(dims, seed=0):
    """A Gaussian of so many components, correlated, with standard deviations from 0.2 to 0.7."""
    basis, _ = np.linalg.qr(normal(dims, dims, seed=seed))
    return (basis * np.linspace(0.2, 0.7, dims) ** 2) @ basis.T


def ode_log_prob(oracle, x_0, schedule, *, num_steps=200, trace=exact_trace):
    transitions = schedule.encoding(timesteps.log_snr(schedule, num_steps + 1)[:-1])
    ours = jax.jit(lambda x_0: ode_log_prob_nats(oracle.denoiser, x_0, transitions=transitions, trace=trace))
    return np.asarray(ours(x_0))


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (2, 2, 1), (2, 2, 3), (4, 4, 1), (6, 6, 1), (8, 8, 1)], ids=str)
def test_the_ode_gives_the_exact_likelihood_of_a_gaussian(x64, shape):
    """Within 0.01 nats, of noisy images at t = 1 and of the clean ones, on any number of components."""
    dims, schedule = math.prod(shape), cosine(4000)
    oracle = Gaussian(0.1 * normal(*shape), spread(dims))
    x_0, level = oracle.sample(jax.random.key(0), 4), schedule.level(1)
    exact = oracle.log_prob(level.signal * x_0, level) + dims * np.log(level.signal)
    ours = ode_log_prob(oracle, x_0, schedule, num_steps=400)
    np.testing.assert_allclose(ours, exact, atol=0.01)
    np.testing.assert_allclose(ours, oracle.log_prob(x_0), atol=0.01)


@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000)], ids=["linear", "cosine"])
def test_the_ode_gives_the_exact_likelihood_of_a_mixture(x64, schedule):
    """Also where the flow bends and the classes part."""
    x_0, level = MIXTURE.sample(jax.random.key(0), 64), schedule.level(1)
    exact = MIXTURE.log_prob(level.signal * x_0, level) + 2 * np.log(level.signal)
    error = np.abs(ode_log_prob(MIXTURE, x_0, schedule, num_steps=400) - exact)
    assert error.max() < 0.01


def test_the_scale_of_the_first_level_is_part_of_the_density(x64):
    """From a late first level, where the signal is far from 1: `p(x_0) = p(signal x_0) signal**D`."""
    schedule, x_0 = cosine(1000), GAUSSIAN.sample(jax.random.key(0), 8)
    level, times = schedule.level(400), np.linspace(1000, 400, 201)
    ours = ode_log_prob_nats(GAUSSIAN.denoiser, x_0, transitions=schedule.encoding(times))
    exact = GAUSSIAN.log_prob(level.signal * x_0, level) + 3 * np.log(level.signal)
    assert 3 * np.log(level.signal) < -0.5
    np.testing.assert_allclose(ours, exact, atol=0.01)


def test_the_error_of_the_ode_likelihood_is_of_second_order(x64):
    x_0, schedule, errors = GAUSSIAN.sample(jax.random.key(0), 8), cosine(1000), []
    level = schedule.level(1)
    exact = GAUSSIAN.log_prob(level.signal * x_0, level) + 3 * np.log(level.signal)
    for num_steps in (40, 80):
        errors.append(np.abs(ode_log_prob(GAUSSIAN, x_0, schedule, num_steps=num_steps) - exact).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_the_ode_with_the_decoder_is_exact_on_images_that_noise_cannot_confuse(x64):
    """Of three images x_1 tells which: `-log P = log 3`, and L_0 for pixels at -1 and 1, the ends of open bins."""
    schedule, x_0 = cosine(1000), jnp.asarray(IMAGES.points)
    encoding = schedule.encoding(timesteps.log_snr(schedule, 801)[:-1])
    last = pick(schedule.transitions(), -1)
    bound = jax.jit(partial(ode_bound_nats, IMAGES.denoiser, encoding=encoding, last=last, variance=Variance.SMALL))
    decoder = -16 * norm.logcdf(1 / 255 / np.exp(last.log_var_small / 2))
    np.testing.assert_allclose(bound(x_0, keys(3)), np.log(3) + decoder, atol=0.01)


def test_the_ode_is_below_the_bound_with_the_same_last_term(x64):
    """The terms above L_0 are a bound on what the ODE gives exactly: the same noise at x_1, the same decoder."""
    schedule, x_0 = cosine(200), jnp.clip(MIXTURE.sample(jax.random.key(0), 256), -1, 1)
    encoding, all_moves = schedule.encoding(timesteps.log_snr(schedule, 101)[:-1]), schedule.transitions()
    last, moves = pick(all_moves, -1), (np.arange(200), all_moves)
    bound = bound_terms(MIXTURE.denoiser, x_0, keys(256), indexed=moves, variance=Variance.SMALL)["nats"]
    prior = prior_term_nats(x_0, schedule.level(200))
    ode = ode_bound_nats(MIXTURE.denoiser, x_0, keys(256), encoding=encoding, last=last, variance=Variance.SMALL)
    gap = bound.sum(axis=0) + prior - ode
    assert gap.mean() > 3 * gap.std() / 16


def flow_velocity(oracle, level):
    return lambda x: velocity(*oracle.denoiser(x, level)[:2], level)


def test_the_trace_of_float32_images_is_float32(x64):
    """Where float64 is the default, too."""
    value, trace = exact_trace(lambda x: 2 * x, jnp.ones((2, 3), jnp.float32))
    assert value.dtype == trace.dtype == jnp.float32
    np.testing.assert_array_equal(trace, [6, 6])


def test_the_exact_trace_is_that_of_the_jacobian(x64):
    """Of a Gaussian's velocity `signal sigma sum((1 - c) / var)` over the eigenvalues c; of a mixture's by jacfwd."""
    level, oracle = linear(1000).level(300), Gaussian(normal(2, 2, 1), spread(4))
    x, c = normal(5, 2, 2, 1), np.linalg.eigvalsh(spread(4))
    value, trace = jax.jit(partial(exact_trace, flow_velocity(oracle, level)))(jnp.asarray(x))
    expected = level.signal * level.sigma * np.sum((1 - c) / (level.signal**2 * c + level.sigma**2))
    np.testing.assert_allclose(trace, expected, rtol=1e-9)
    np.testing.assert_allclose(value, flow_velocity(oracle, level)(jnp.asarray(x)), rtol=1e-12)
    x = jnp.asarray(normal(5, 2))
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda x: flow_velocity(MIXTURE, level)(x[None])[0])))(x)
    trace = jax.jit(partial(exact_trace, flow_velocity(MIXTURE, level)))(x)[1]
    np.testing.assert_allclose(trace, np.trace(jacobians, axis1=1, axis2=2), rtol=1e-9)


@pytest.mark.parametrize("draw", [jax.random.rademacher, jax.random.normal])
def test_hutchinsons_trace_is_unbiased(x64, draw):
    level, num = linear(1000).level(300), 20_000
    oracle, x = Gaussian(np.zeros(4), spread(4)), jnp.broadcast_to(normal(1, 4), (num, 4))
    probes = draw(jax.random.key(0), (num, 4)).astype(float)
    value, estimates = hutchinson_trace(probes)(flow_velocity(oracle, level), x)
    exact_value, exact = exact_trace(flow_velocity(oracle, level), x[:1])
    np.testing.assert_allclose(value[:1], exact_value, rtol=1e-12)
    assert estimates.std() > 0.01
    np.testing.assert_allclose(estimates.mean(), exact[0], atol=5 * estimates.std() / np.sqrt(num))


def test_signs_probe_a_diagonal_jacobian_exactly(x64):
    level, oracle = linear(1000).level(300), Gaussian(np.zeros(5), np.diag([0.1, 0.2, 0.3, 0.4, 0.5]))
    x, probes = jnp.asarray(normal(3, 5)), jax.random.rademacher(jax.random.key(0), (3, 5)).astype(float)
    exact = exact_trace(flow_velocity(oracle, level), x)[1]
    np.testing.assert_allclose(hutchinson_trace(probes)(flow_velocity(oracle, level), x)[1], exact, rtol=1e-12)
    ours = ode_log_prob(oracle, x, cosine(1000), num_steps=40, trace=hutchinson_trace(probes))
    np.testing.assert_allclose(ours, ode_log_prob(oracle, x, cosine(1000), num_steps=40), rtol=1e-12)

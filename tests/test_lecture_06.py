"""Section 6 of the lecture: the Fokker-Planck equation, the probability-flow ODE, DDIM as its Euler step, the family.

In continuous time `f = -beta(t) x / 2` and `g**2 = beta(t)`, here with `beta(t) = 0.5 + t`, so that
`alpha_bar(t) = exp(-t / 2 - t**2 / 2)`. The data are mixtures of Gaussians, whose density at every time is known.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.stats import norm
from support.analytic import MIXTURE, keys, normal, pick
from support.measures import order

from ddpm_jax.diffusion.analytic import FiniteData, Gaussian, GaussianMixture
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.ode_likelihood import ode_log_prob, ode_steps
from ddpm_jax.diffusion.prediction import score
from ddpm_jax.diffusion.samplers import Variance, ddim, ddim_step, heun, ode_coordinates, p_mean_log_var, sample
from ddpm_jax.diffusion.schedules import NoiseLevel, linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
LINE = GaussianMixture([0.3, 0.7], [[-0.8], [0.6]], [[[0.05]], [[0.02]]])
POINTS, TIME = 0.7 * normal(5, 2), 0.8


def beta(t):
    """`beta(t) = g(t)**2`, the variance that is added per unit of time."""
    return 0.5 + t


def level(t):
    """The noise level at a time of continuous length; it can be differentiated in t."""
    alpha_bar = jnp.exp(-0.5 * t - 0.5 * t**2)
    return NoiseLevel(t, jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar))


def density(x, t):
    """`q(x_t)` of one point of the plane."""
    return jnp.exp(MIXTURE.log_prob(x[None], level(t))[0])


def exact_score(x, t):
    """`grad log q(x_t)` of one point, from the exact denoiser."""
    return score(MIXTURE.denoiser(x[None], level(t)), level(t))[0]


def divergence(field, x):
    """The trace of the Jacobian of a function from points to vectors."""
    return jnp.trace(jax.jacfwd(field)(x))


def laplacian(function, x):
    """The trace of the Hessian of a function from points to numbers."""
    return jnp.trace(jax.hessian(function)(x))


def at_points(function):
    """The values of a function of one point at all of `POINTS`."""
    return jax.vmap(function)(jnp.asarray(POINTS))


def change_of_density():
    """`dq / dt` at all points, by a central difference."""
    difference = lambda x: (density(x, TIME + 1e-4) - density(x, TIME - 1e-4)) / 2e-4
    return at_points(difference)


def flow(x, t):
    """The velocity `f - g**2 score / 2` of the probability flow at one point."""
    return -beta(t) * x / 2 - beta(t) * exact_score(x, t) / 2


def test_6_1_noise_changes_the_density_by_the_fokker_planck_equation():
    carried = at_points(lambda x: -divergence(lambda y: -beta(TIME) * y / 2 * density(y, TIME), x))
    spread = at_points(lambda x: beta(TIME) / 2 * laplacian(lambda y: density(y, TIME), x))
    np.testing.assert_allclose(carried + spread, change_of_density(), rtol=1e-6, atol=1e-9)


def test_6_2_spreading_by_noise_is_a_flux_along_the_score():
    spread = at_points(lambda x: beta(TIME) / 2 * laplacian(lambda y: density(y, TIME), x))
    flux = lambda x: beta(TIME) / 2 * density(x, TIME) * exact_score(x, TIME)
    np.testing.assert_allclose(at_points(partial(divergence, flux)), spread, rtol=1e-9)


def test_6_3_a_velocity_without_noise_has_the_same_density():
    flux = lambda x: flow(x, TIME) * density(x, TIME)
    np.testing.assert_allclose(-at_points(partial(divergence, flux)), change_of_density(), rtol=1e-6, atol=1e-9)


def line_cdf(x, t):
    """The probability of numbers below x under the noisy density of `LINE`."""
    now = level(t)
    std = np.sqrt(now.signal**2 * LINE.covariances[:, 0, 0] + now.sigma**2)
    return float(np.sum(LINE.weights * norm.cdf((x - now.signal * LINE.means[:, 0]) / std)))


def line_quantile(share, t):
    return brentq(lambda x: line_cdf(x, t) - share, -6, 6, xtol=1e-14)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
def test_6_4_on_a_line_the_flow_keeps_the_share_on_each_side(share):
    """The quantile of the exact density moves with the velocity of the flow."""
    x, step = line_quantile(share, TIME), 1e-4
    moved = (line_quantile(share, TIME + step) - line_quantile(share, TIME - step)) / (2 * step)
    slope = score(LINE.denoiser(jnp.array([[x]]), level(TIME)), level(TIME))[0, 0]
    np.testing.assert_allclose(-beta(TIME) * x / 2 - beta(TIME) / 2 * slope, moved, rtol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 1.7])
def test_6_5_every_amount_of_noise_has_the_same_densities(noise):
    """Noise of the strength `noise * g`, backwards in time; 0 is the flow and 1 is Anderson's reverse SDE."""
    drift = lambda x: -beta(TIME) * x / 2 - (1 + noise**2) / 2 * beta(TIME) * exact_score(x, TIME)
    carried = -at_points(partial(divergence, lambda x: drift(x) * density(x, TIME)))
    spread = -at_points(lambda x: noise**2 * beta(TIME) / 2 * laplacian(lambda y: density(y, TIME), x))
    np.testing.assert_allclose(carried + spread, change_of_density(), rtol=1e-6, atol=1e-9)


def test_6_6_the_flow_in_terms_of_the_noise():
    now = level(TIME)
    eps = MIXTURE.denoiser(jnp.asarray(POINTS), now).eps
    slope = at_points(jax.grad(lambda x: jnp.log(density(x, TIME))))
    expected = -beta(TIME) * POINTS / 2 - beta(TIME) / 2 * slope
    np.testing.assert_allclose(beta(TIME) / 2 * (eps / now.sigma - POINTS), expected, rtol=1e-8)


def test_6_7_the_scaled_image_moves_only_with_the_noise():
    """The left side is the product rule by automatic differentiation along x(t)."""
    now = level(TIME)
    scaled = lambda x, t: x / level(t).signal
    velocity = at_points(lambda x: flow(x, TIME))
    moved = jax.jvp(scaled, (jnp.asarray(POINTS), TIME), (velocity, 1.0))[1]
    eps = MIXTURE.denoiser(jnp.asarray(POINTS), now).eps
    np.testing.assert_allclose(beta(TIME) / (2 * now.signal * now.sigma) * eps, moved, rtol=1e-9)


def test_6_8_the_ratio_of_noise_to_signal_grows_at_the_same_rate():
    ratio = lambda t: level(t).sigma / level(t).signal
    now = level(TIME)
    np.testing.assert_allclose(beta(TIME) / (2 * now.signal * now.sigma), jax.grad(ratio)(TIME), rtol=1e-10)


def test_6_9_in_the_scaled_image_and_the_ratio_the_flow_is_the_noise():
    """By the quantiles of the exact density: `x / signal` is differentiated by `sigma / signal`."""
    ends = [(line_quantile(0.35, t) / level(t).signal, level(t).sigma / level(t).signal) for t in (0.7999, 0.8001)]
    (x_bar_0, ratio_0), (x_bar_1, ratio_1) = ends
    eps = LINE.denoiser(jnp.array([[line_quantile(0.35, TIME)]]), level(TIME)).eps[0, 0]
    np.testing.assert_allclose(eps, (x_bar_1 - x_bar_0) / (ratio_1 - ratio_0), rtol=1e-6)


@pytest.mark.parametrize(("t", "s"), [(1000, 800), (300, 299), (50, 0)])
def test_6_10_ddim_is_the_euler_step_of_the_flow(t, s):
    move = pick(SCHEDULE.transitions([t, s]), 0)
    x_t = jnp.asarray(POINTS)
    eps = MIXTURE.denoiser(x_t, move.now).eps
    x_bar, ratio = ode_coordinates(x_t, move.now)
    euler = move.next.signal * (x_bar + (move.next.sigma / move.next.signal - ratio) * eps)
    np.testing.assert_allclose(
        ddim_step(MIXTURE.denoiser, keys(5), x_t=x_t, transition=move, eta=0.0), euler, rtol=1e-9
    )


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_6_11_every_eta_keeps_the_distribution_given_the_image(eta):
    """The data are one image, so that the step is linear in the noise of x_t and in its own: their squares add up."""
    move = pick(SCHEDULE.transitions([600, 450]), 0)
    x_0 = FiniteData(normal(1, 2))
    step = partial(ddim_step, x_0.denoiser, transition=move, eta=eta)
    mean = move.now.signal * jnp.asarray(x_0.points)
    at_mean, at_one = (step(keys(1), x_t=mean + move.now.sigma * e) for e in (0.0, 1.0))
    z = noise_like(keys(1), mean)
    fresh = (at_mean - step(keys(1, seed=1), x_t=mean)) / (z - noise_like(keys(1, seed=1), mean))
    np.testing.assert_allclose((at_one - at_mean) ** 2 + fresh**2, jnp.full((1, 2), move.next.sigma**2), rtol=1e-9)
    np.testing.assert_allclose(at_mean - fresh * z, move.next.signal * x_0.points, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_6_12_for_short_steps_ddim_is_the_member_of_the_family_with_noise_eta(eta):
    """The error of the mean and of the variance over a step of length dt is O(dt**2)."""
    x_t, lengths = jnp.asarray(POINTS), np.array([4e-3, 2e-3, 1e-3])
    drift = -beta(TIME) * x_t / 2 - (1 + eta**2) / 2 * beta(TIME) * at_points(lambda x: exact_score(x, TIME))
    means, variances = [], []
    for dt in lengths:
        now, next = level(TIME), level(TIME - dt)
        move = pick(SCHEDULE.transitions([2, 1]), 0)._replace(
            now=now, next=next, beta=1 - (now.signal / next.signal) ** 2
        )
        one, other = (ddim_step(MIXTURE.denoiser, keys(5, seed), x_t=x_t, transition=move, eta=eta) for seed in (0, 1))
        z, other_z = noise_like(keys(5), x_t), noise_like(keys(5, seed=1), x_t)
        std = (one - other) / (z - other_z)
        means.append(np.abs(one - std * z - (x_t - dt * drift)).max())
        variances.append(np.abs(std**2 - eta**2 * beta(TIME) * dt).max())
    assert order(lengths, means) == pytest.approx(2, abs=0.1)
    assert eta == 0 or order(lengths, variances) == pytest.approx(2, abs=0.1)


def test_6_13_the_flow_of_a_gaussian_scales_every_distance_by_the_standard_deviations():
    c, times = 0.09, np.arange(400, 99, -1)
    data = Gaussian([0.4], [[c]])
    x_t = jnp.array([[0.7], [0.71]])
    ends = sample(heun(), data.denoiser, keys(2), x_T=x_t, transitions=SCHEDULE.transitions(times))
    a_t, a_s = SCHEDULE.alpha_bar[[400, 100]]
    ratio = np.sqrt((a_s * c + 1 - a_s) / (a_t * c + 1 - a_t))
    np.testing.assert_allclose(ends[1] - ends[0], 0.01 * ratio, rtol=1e-4)


def test_6_14_from_one_start_the_reverse_chain_has_the_posterior_variance():
    """The true reverse kernels of Gaussian data, composed from T to 0, against the variance of x_0 given x_T."""
    c, transitions = 0.09, SCHEDULE.transitions()
    data, var = Gaussian([0.4], [[c]]), 0.0
    slope_of = jax.jit(jax.vmap(jax.grad(lambda x, move: _reverse_mean(data, x, move)), (None, 0)))
    slopes = np.asarray(slope_of(0.3, transitions))
    alpha_bar = SCHEDULE.alpha_bar
    for slope, t in zip(slopes, range(1000, 0, -1), strict=True):
        a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
        var_s, var_t = a_s * c + 1 - a_s, a_t * c + 1 - a_t
        var = slope**2 * var + var_s - (a_t / a_s) * var_s**2 / var_t
    a_T = alpha_bar[-1]
    np.testing.assert_allclose(var, c * (1 - a_T) / (a_T * c + 1 - a_T), rtol=1e-9)


def _reverse_mean(data, x, move):
    x_t = jnp.reshape(x, (1, 1))
    mean, _ = p_mean_log_var(data.denoiser(x_t, move.now), x_t, move, Variance.SMALL)
    return mean[0, 0]


def test_6_15_along_the_flow_the_log_density_falls_by_the_divergence():
    log_density = lambda x, t: jnp.log(density(x, t))
    along = lambda x: jax.jvp(log_density, (x, TIME), (flow(x, TIME), 1.0))[1]
    diverging = at_points(partial(divergence, lambda x: flow(x, TIME)))
    np.testing.assert_allclose(at_points(along), -diverging, rtol=1e-8)


def test_6_16_the_density_of_an_image_is_that_of_its_noise_and_the_integral():
    """By SciPy's solver to high accuracy, and by the project's likelihood of the same mixture."""

    def velocity(x, t):
        now = level(t)
        return -beta(t) / 2 * (x + score(LINE.denoiser(jnp.reshape(x, (1, 1)), now), now)[0, 0])

    both = jax.jit(jax.value_and_grad(velocity))
    start, end, x_0 = 0.05, 2.0, 0.5
    path = solve_ivp(lambda t, y: both(y[0], t), (start, end), [x_0, 0.0], rtol=1e-9, atol=1e-10)
    x_T, integral = path.y[:, -1]
    exact = LINE.log_prob(jnp.array([[x_0]]), level(start))[0]
    np.testing.assert_allclose(LINE.log_prob(jnp.array([[x_T]]), level(end))[0] + integral, exact, rtol=1e-7)

    ours = ode_log_prob(LINE.denoiser, jnp.array([[x_0]]), steps=ode_steps(SCHEDULE, 32, first=100)).nats
    first = SCHEDULE.level(100)
    truth = LINE.log_prob(first.signal * jnp.array([[x_0]]), first) + np.log(first.signal)
    np.testing.assert_allclose(ours, truth, atol=1e-3)


def test_ddim_from_one_start_has_one_end():
    x_T = jnp.full((4, 2), 0.3)
    ends = sample(ddim(), MIXTURE.denoiser, keys(4), x_T=x_T, transitions=SCHEDULE.transitions([1000, 500, 100, 0]))
    np.testing.assert_array_equal(ends, jnp.broadcast_to(ends[:1], ends.shape))

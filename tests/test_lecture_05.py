"""Section 5 of the lecture: f and g, the Fokker-Planck equation, Anderson's reverse SDE, the limit of ancestral steps.

In continuous time the betas grow linearly, `beta(t) = 0.1 + 19.9 t` for t in [0, 1].
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian, GaussianMixture
from ddpm_jax.diffusion.gaussian import q_step
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import NoiseLevel, from_betas, linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
NUMBERS = GaussianMixture([0.3, 0.7], [[-0.6], [0.5]], [[[0.04]], [[0.09]]])
LINE = np.linspace(-6, 6, 801)
T = 0.3  # the time at which the equations are checked
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def beta(t):
    return 0.1 + 19.9 * t


def alpha_bar(t):
    return jnp.exp(-(0.1 * t + 19.9 * t**2 / 2))


def q(x, t, data=MIXTURE):
    """The density of noisy data at one point `[D]` and a time in [0, 1]."""
    level = NoiseLevel(t, jnp.sqrt(alpha_bar(t)), jnp.sqrt(1 - alpha_bar(t)))
    return jnp.exp(data.log_prob(x[None], level)[0])


def score(x, t, data=MIXTURE):
    return jax.grad(lambda x: jnp.log(q(x, t, data)))(x)


def drift(x, t):
    return -beta(t) / 2 * x


def divergence(field):
    return lambda x: jnp.trace(jax.jacfwd(field)(x))


def laplacian(density):
    return lambda x: jnp.trace(jax.hessian(density)(x))


def wave(x):
    """A smooth function that is zero far away."""
    return jnp.exp(-((x - 0.4) ** 2)) * jnp.sin(2 * x)


POINTS = np.array([[0.2, -0.4], [-0.7, 0.5], [0.6, 0.6], [1.1, -1.0]])
GRADIENT, CURVATURE = jax.jit(jax.vmap(jax.grad(wave))), jax.jit(jax.vmap(jax.grad(jax.grad(wave))))


def everywhere(f):
    """The values of a function of one point at all points."""
    return jax.jit(jax.vmap(f))(POINTS)


def along_the_line(f):
    """A function of one number and q of numbers, at all points of the line."""
    return jax.jit(jax.vmap(lambda x: f(x[None]).squeeze()))(LINE)


def moments(x, h):
    """Mean and variance of a noising step of the length h at T from x, by its coefficients."""
    move = pick(from_betas([beta(T) * h]).transitions(), 0)
    keep, add = (
        np.asarray(q_step(a, b, move)).item() for a, b in (np.eye(2)[0, :, None, None], np.eye(2)[1, :, None, None])
    )
    return keep * x, add**2


def test_5_1_the_drift_is_the_limit_of_the_mean_increment():
    lengths = np.array([1e-3, 5e-4, 2.5e-4])
    errors = [(moments(0.8, h)[0] - 0.8) / h - drift(0.8, T) for h in lengths]
    np.testing.assert_allclose(errors / lengths, -(beta(T) ** 2) / 8 * 0.8, rtol=1e-2)  # O(h), by (4.4)


def test_5_2_the_diffusion_is_the_variance_of_the_increment():
    for h in (1e-2, 1e-3):
        np.testing.assert_allclose(moments(0.8, h)[1] / h, beta(T), rtol=1e-9)


def test_5_3_the_sde_has_the_kernel_of_section_2():
    """The equations of mean and variance, solved in many small steps of the midpoint method."""
    mean, var, num = 0.8, 0.0, 4000
    for i in range(num):
        h, t = T / num, (i + 0.5) * T / num
        half_mean, half_var = mean - beta(t) / 2 * mean * h / 2, var + (beta(t) - beta(t) * var) * h / 2
        mean, var = mean - h * beta(t) / 2 * half_mean, var + h * (beta(t) - beta(t) * half_var)
    np.testing.assert_allclose([mean, var], [np.sqrt(alpha_bar(T)) * 0.8, 1 - alpha_bar(T)], rtol=1e-6)
    # The discrete schedule with the same rate, 1/1000 of time per step, has nearly the same product.
    product = np.prod(1 - beta((np.arange(300) + 0.5) / 1000) / 1000)
    np.testing.assert_allclose(product, alpha_bar(T), rtol=0.01)


def test_5_4_the_mean_of_a_function_after_a_small_step():
    """By quadrature over eps; what is left falls as the square of the length of the step."""
    x, lengths, errors = 0.3, np.array([4e-3, 2e-3, 1e-3]), []
    generator = drift(x, T) * jax.grad(wave)(x) + beta(T) / 2 * jax.grad(jax.grad(wave))(x)
    for h in lengths:
        mean, var = moments(x, h)
        after = np.sum(WEIGHTS * wave(mean + np.sqrt(var) * NODES))
        errors.append(after - (wave(x) + h * generator))
    np.testing.assert_allclose(np.log2(np.abs(errors[:-1]) / np.abs(errors[1:])), 2, atol=0.1)


def test_5_5_the_mean_of_a_function_over_time():
    density = along_the_line(lambda x: q(x, T, NUMBERS))
    change = along_the_line(lambda x: jax.jvp(lambda t: q(x, t, NUMBERS), (T,), (1.0,))[1])
    left = jnp.trapezoid(wave(LINE) * change, LINE)
    right = jnp.trapezoid((drift(LINE, T) * GRADIENT(LINE) + beta(T) / 2 * CURVATURE(LINE)) * density, LINE)
    assert abs(left) > 0.1
    np.testing.assert_allclose(left, right, rtol=1e-8)


def test_5_6_integration_by_parts():
    density = along_the_line(lambda x: q(x, T, NUMBERS))
    flow = along_the_line(divergence(lambda x: drift(x, T) * q(x, T, NUMBERS)))
    curve = along_the_line(laplacian(lambda x: q(x, T, NUMBERS)))
    left = jnp.trapezoid((drift(LINE, T) * GRADIENT(LINE) + beta(T) / 2 * CURVATURE(LINE)) * density, LINE)
    right = jnp.trapezoid(wave(LINE) * (-flow + beta(T) / 2 * curve), LINE)
    np.testing.assert_allclose(left, right, rtol=1e-8)


def time_derivative(x):
    return jax.jvp(lambda t: q(x, t), (T,), (1.0,))[1]


def test_5_7_the_noisy_density_obeys_the_fokker_planck_equation():
    def right(x):
        return -divergence(lambda x: drift(x, T) * q(x, T))(x) + beta(T) / 2 * laplacian(lambda x: q(x, T))(x)

    np.testing.assert_allclose(everywhere(time_derivative), everywhere(right), rtol=1e-9)


def test_5_8_a_laplacian_is_the_divergence_of_a_drift_along_the_score():
    left = everywhere(laplacian(lambda x: q(x, T)))
    right = everywhere(divergence(lambda x: q(x, T) * score(x, T)))
    np.testing.assert_allclose(left, right, rtol=1e-9)


def test_5_9_spreading_backwards_is_a_drift_and_spreading():
    curve = everywhere(laplacian(lambda x: q(x, T)))
    flow = everywhere(divergence(lambda x: beta(T) * score(x, T) * q(x, T)))
    np.testing.assert_allclose(-beta(T) / 2 * curve, -flow + beta(T) / 2 * curve, rtol=1e-9)


def test_5_10_the_reverse_sde_has_the_same_densities():
    """The Fokker-Planck equation of the reverse SDE, whose density must change by the opposite of the forward one."""

    def right(x):
        reverse = divergence(lambda x: (-drift(x, T) + beta(T) * score(x, T)) * q(x, T))
        return -reverse(x) + beta(T) / 2 * laplacian(lambda x: q(x, T))(x)

    np.testing.assert_allclose(-everywhere(time_derivative), everywhere(right), rtol=1e-9)


def ancestral_mean(x, move, variance=Variance.SMALL):
    return jax.jit(lambda x: p_mean_log_var(MIXTURE.denoiser(x, move.now), x, move, variance))(x)


def exact_score(x, move):
    return jax.jit(jax.grad(lambda x: jnp.sum(MIXTURE.log_prob(x, move.now))))(x)


@pytest.mark.parametrize("times", [[700, 640], [300, 299], [20, 1]])
def test_5_11_the_ancestral_mean_in_terms_of_the_score(times):
    x, move = jnp.asarray(normal(6, 2)), pick(SCHEDULE.transitions(times), 0)
    between = 1 - SCHEDULE.alpha_bar[times[0]] / SCHEDULE.alpha_bar[times[1]]
    expected = (x + between * exact_score(x, move)) / np.sqrt(1 - between)
    np.testing.assert_allclose(ancestral_mean(x, move)[0], expected, rtol=1e-8)


def test_5_12_the_ancestral_mean_is_a_step_of_the_reverse_sde():
    """The difference from the first two terms, divided by `beta**2`, tends to the coefficient of the third."""
    x = jnp.asarray(normal(6, 2))
    errors = []
    for length in (0.4, 0.2, 0.1):
        move = pick(SCHEDULE.transitions([500.0, 500.0 - length]), 0)
        gradient = exact_score(x, move)
        rest = ancestral_mean(x, move)[0] - (x + move.beta * (x / 2 + gradient))
        errors.append(jnp.abs(rest / move.beta**2 - (3 * x / 8 + gradient / 2)).max())
    assert errors[-1] < 0.01
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.1)


@pytest.mark.parametrize("times", [[700, 640], [300, 299], [20, 1]])
def test_5_13_both_variances_of_ddpm_are_that_of_the_sde(times):
    t, s = SCHEDULE.alpha_bar[times]
    between, move = 1 - t / s, pick(SCHEDULE.transitions(times), 0)
    small = between - t / ((1 - between) * (1 - t)) * between**2
    x = jnp.zeros((1, 2))
    np.testing.assert_allclose(np.exp(ancestral_mean(x, move)[1]), small, rtol=1e-8)
    np.testing.assert_allclose(np.exp(ancestral_mean(x, move, Variance.LARGE)[1]), between, rtol=1e-8)


def test_5_14_the_variance_is_that_of_the_ends_and_that_of_the_starts():
    """Moments of `q(x_0 | x_t)` by Bayes' rule on a grid, for data that are no Gaussian."""
    x_0 = x_t = np.linspace(-4, 4, 801)
    signal, var = np.sqrt(alpha_bar(T)), 1 - alpha_bar(T)
    data = np.exp(NUMBERS.log_prob(x_0[:, None]))
    joint = np.exp(-((x_t[:, None] - signal * x_0) ** 2) / (2 * var)) * data
    marginal = joint.sum(axis=1)
    mean = (joint * x_0).sum(axis=1) / marginal
    ends = (joint * (x_0 - mean[:, None]) ** 2).sum(axis=1) / marginal
    share = marginal / marginal.sum()
    centre = np.sum(share * mean)
    total = np.sum(share * ends) + np.sum(share * (mean - centre) ** 2)
    np.testing.assert_allclose(total, NUMBERS.covariance[0, 0], rtol=1e-5)


@pytest.mark.parametrize(("t", "share"), [(1000, 4e-5), (500, 0.079), (300, 0.40), (100, 0.90)])
def test_5_15_the_share_that_the_start_determines(t, share):
    """The variance of the posterior mean, an affine function of x_t, from two of its values."""
    for c in (1.0, 0.4):
        data, level = Gaussian([0.2], [[c]]), SCHEDULE.level(t)
        low, high = np.asarray(data.denoiser(jnp.array([[0.0], [1.0]]), level).x_0).ravel()
        spread = (high - low) ** 2 * (level.signal**2 * c + level.sigma**2)
        kept = SCHEDULE.alpha_bar[t]
        np.testing.assert_allclose(spread / c, kept * c / (kept * c + 1 - kept), rtol=1e-9)
        if c == 1:
            assert spread / c == pytest.approx(share, rel=0.02)

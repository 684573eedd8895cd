"""Section 4 of the lecture: a noising step is a Langevin step on a standard normal, up to an exact remainder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_step
from ddpm_jax.diffusion.samplers import langevin_step
from ddpm_jax.diffusion.schedules import from_betas

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

BETAS = np.array([0.5, 0.1, 0.02, 1e-3])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def noised(x, eps, beta):
    return q_step(x, eps, pick(from_betas([beta]).transitions(), 0))


def test_4_1_the_score_of_the_standard_normal():
    x = normal(5, 3)
    gradient = jax.grad(lambda x: jnp.sum(Gaussian(np.zeros(3), np.eye(3)).log_prob(x)))(jnp.asarray(x))
    np.testing.assert_allclose(gradient, -x, rtol=1e-12)


@pytest.mark.parametrize("delta", BETAS)
def test_4_2_a_langevin_step_on_the_standard_normal(delta):
    x = normal(5, 3)
    expected = (1 - delta / 2) * x + np.sqrt(delta) * noise_like(keys(5), x)
    np.testing.assert_allclose(langevin_step(x, -x, keys(5), delta=delta), expected, rtol=1e-10)


def test_4_3_the_remainder_of_the_root_is_half_a_square():
    root = np.sqrt(1 - BETAS)
    np.testing.assert_allclose(1 - BETAS / 2 - root, (1 - root) ** 2 / 2, rtol=1e-8)


def test_4_4_the_remainder_is_of_second_order():
    root = np.sqrt(1 - BETAS)
    remainder = BETAS**2 / (2 * (1 + root) ** 2)
    np.testing.assert_allclose((1 - root) ** 2 / 2, remainder, rtol=1e-9)
    assert np.all((remainder > BETAS**2 / 8) & (remainder < BETAS**2 / 2))
    np.testing.assert_allclose(remainder[-1] / BETAS[-1] ** 2, 1 / 8, rtol=1e-3)


@pytest.mark.parametrize("beta", BETAS)
def test_4_5_langevin_minus_noising(beta):
    x = normal(50, 3)
    difference = langevin_step(x, -x, keys(50), delta=beta) - noised(x, noise_like(keys(50), x), beta)
    np.testing.assert_allclose(difference, beta**2 / (2 * (1 + np.sqrt(1 - beta)) ** 2) * x, rtol=1e-5, atol=1e-14)


def test_4_6_independent_noises_add_by_their_variances():
    """The mean of a wave of the sum, by quadrature over both noises."""
    s_1, s_2, u = 0.6, 0.8, np.linspace(-3, 3, 7)
    total = s_1 * NODES[:, None] + s_2 * NODES
    mean = np.sum(np.outer(WEIGHTS, WEIGHTS) * np.exp(1j * u[:, None, None] * total), axis=(1, 2))
    np.testing.assert_allclose(mean, np.exp(-(s_1**2) * u**2 / 2) * np.exp(-(s_2**2) * u**2 / 2), atol=1e-10)
    np.testing.assert_allclose(mean, np.exp(-(s_1**2 + s_2**2) * u**2 / 2), atol=1e-10)


@pytest.mark.parametrize("beta", BETAS)
def test_4_7_a_noising_step_keeps_the_standard_normal(beta):
    """The variance after a step of the project, of a start of variance 1 and of noise, by its two coefficients."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    keep, add = noised(one, zero, beta), noised(zero, one, beta)
    np.testing.assert_allclose(keep**2 + add**2, 1, rtol=1e-12)


@pytest.mark.parametrize("delta", BETAS)
def test_4_8_the_variance_that_a_langevin_step_keeps(delta):
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    add = langevin_step(zero, zero, keys(1), delta=delta) / noise_like(keys(1), zero)
    keep = langevin_step(one, -one, keys(1), delta=delta) - langevin_step(zero, zero, keys(1), delta=delta)
    v = 1 / (1 - delta / 4)
    np.testing.assert_allclose(keep**2 * v + add**2, v, rtol=1e-10)
    np.testing.assert_allclose(delta / (1 - (1 - delta / 2) ** 2), v, rtol=1e-10)


def test_4_9_langevin_dynamics_keeps_its_density():
    def density(x):
        return jnp.exp(MIXTURE.log_prob(x[None])[0])

    def flow(x):
        return jax.grad(lambda x: MIXTURE.log_prob(x[None])[0])(x) * density(x) / 2

    x = jnp.asarray(MIXTURE.sample(jax.random.key(0), 6))
    drift = jax.jit(jax.vmap(lambda x: -jnp.trace(jax.jacfwd(flow)(x))))(x)
    spreading = jax.jit(jax.vmap(lambda x: jnp.trace(jax.hessian(density)(x)) / 2))(x)
    assert np.abs(drift).max() > 1
    np.testing.assert_allclose(drift + spreading, 0, atol=1e-10 * np.abs(drift).max())

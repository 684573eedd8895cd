"""Row 15 of the lecture: the score of noisy images is the posterior average of the noise, by marginalising."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal, norm
from support.analytic import IMAGES, MIXTURE, normal
from support.line import LINE

from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.prediction import score
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

LEVEL = linear(1000).level(250)
SIGNAL, SIGMA = float(LEVEL.signal), float(LEVEL.sigma)
X_0 = np.linspace(-5, 5, 4001)
STEP = X_0[1] - X_0[0]
X_T = np.linspace(-2.5, 2.5, 23)
with jax.enable_x64(True):
    DATA = np.exp(np.asarray(LINE.log_prob(X_0[:, None])))  # q(x_0) at the points X_0


def kernel(x_t):
    """`q(x_t | x_0)` at one x_t and all points X_0."""
    return norm.pdf(x_t, SIGNAL * X_0, SIGMA)


def marginal(x_t):
    """`q(x_t)`, by quadrature over x_0."""
    return jnp.sum(kernel(x_t) * DATA) * STEP


def log_kernel(x_t, x_0):
    """`log q(x_t | x_0)` of one image of any size."""
    return multivariate_normal.logpdf(x_t, SIGNAL * x_0, SIGMA**2 * jnp.eye(x_t.size))


def exact_score(density, x_t, level=LEVEL):
    """The score, by automatic differentiation of the exact log density."""
    return jax.grad(lambda x: density.log_prob(x, level).sum())(jnp.asarray(x_t))


def on_line(function):
    return np.asarray(jax.vmap(function)(jnp.asarray(X_T)))


LINE_SCORE = jax.vmap(jax.grad(lambda x: LINE.log_prob(x.reshape(1, 1), LEVEL)[0]))


def test_15_1_the_log_density_of_the_kernel():
    x_0, x_t = normal(3), normal(3, seed=1)
    written = -np.sum((x_t - SIGNAL * x_0) ** 2) / (2 * SIGMA**2) - 1.5 * np.log(2 * np.pi * SIGMA**2)
    np.testing.assert_allclose(log_kernel(x_t, x_0), written, rtol=1e-12)


def test_15_2_the_gradient_of_the_kernel():
    x_0, x_t = normal(3), normal(3, seed=1)
    np.testing.assert_allclose(jax.grad(log_kernel)(x_t, x_0), -(x_t - SIGNAL * x_0) / SIGMA**2, rtol=1e-10)


def test_15_3_the_score_of_the_kernel_is_the_noise():
    x_0, eps = normal(4, 3), normal(4, 3, seed=1)
    x_t = q_sample(x_0, eps, LEVEL)
    np.testing.assert_allclose(jax.vmap(jax.grad(log_kernel))(x_t, x_0), -eps / SIGMA, rtol=1e-9)


def test_15_4_the_marginal():
    np.testing.assert_allclose(on_line(marginal), np.exp(LINE.log_prob(X_T[:, None], LEVEL)), rtol=1e-10)


def test_15_5_the_gradient_of_a_logarithm():
    ratio = on_line(jax.grad(marginal)) / on_line(marginal)
    np.testing.assert_allclose(LINE_SCORE(X_T), ratio, rtol=1e-8, atol=1e-10)


def test_15_6_the_gradient_moves_under_the_integral():
    """The left side by a difference of the integral, so that the derivative is taken after it."""
    under = on_line(lambda x: jnp.sum(jax.jacfwd(kernel)(x) * DATA) * STEP)
    h = 1e-4
    differences = on_line(lambda x: (marginal(x + h) - marginal(x - h)) / (2 * h))
    np.testing.assert_allclose(under, differences, atol=1e-7)


def test_15_7_multiply_and_divide():
    x_0 = 0.4
    density = lambda x: norm.pdf(x, SIGNAL * x_0, SIGMA)
    expected = on_line(density) * -(X_T - SIGNAL * x_0) / SIGMA**2
    np.testing.assert_allclose(on_line(jax.grad(density)), expected, rtol=1e-10)


def test_15_8_the_score_is_an_average_of_scores():
    def average(x):
        return jnp.sum(kernel(x) * DATA / marginal(x) * -(x - SIGNAL * X_0) / SIGMA**2) * STEP

    np.testing.assert_allclose(on_line(average), LINE_SCORE(X_T), rtol=1e-8, atol=1e-10)


def posterior(x_t):
    """`q(x_0 | x_t)` at the points X_0 in closed form: a mixture, whose parts complete the square."""
    var = 1 / (1 / LINE.covariances[:, 0, 0] + SIGNAL**2 / SIGMA**2)
    means = var * (LINE.means[:, 0] / LINE.covariances[:, 0, 0] + SIGNAL * x_t / SIGMA**2)
    weights = jnp.exp(LINE.log_prob_label(x_t.reshape(1, 1), LEVEL)[0])
    return weights @ norm.pdf(X_0, means[:, None], np.sqrt(var)[:, None])


def test_15_9_the_weights_are_the_posterior():
    bayes = on_line(lambda x: kernel(x) * DATA / marginal(x))
    np.testing.assert_allclose(bayes, on_line(posterior), atol=1e-9)


def test_15_10_the_score_is_the_posterior_average_of_the_noise():
    average = on_line(lambda x: jnp.sum(posterior(x) * (x - SIGNAL * X_0) / SIGMA) * STEP)
    np.testing.assert_allclose(LINE_SCORE(X_T), -average / SIGMA, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("data", [MIXTURE, IMAGES], ids=["mixture", "images"])
def test_15_11_the_best_network_is_the_score(data):
    x_t = q_sample(data.sample(jax.random.key(0), 20), normal(20, *data.sample(jax.random.key(0), 1).shape[1:]), LEVEL)
    np.testing.assert_allclose(score(data.denoiser(x_t, LEVEL), LEVEL), exact_score(data, x_t), atol=1e-9)


@pytest.mark.parametrize("data", [MIXTURE, IMAGES], ids=["mixture", "images"])
def test_15_12_the_score_gives_the_clean_image(data):
    x_t = q_sample(data.sample(jax.random.key(0), 20), normal(20, *data.sample(jax.random.key(0), 1).shape[1:]), LEVEL)
    clean = (x_t + SIGMA**2 * exact_score(data, x_t)) / SIGNAL
    np.testing.assert_allclose(data.denoiser(x_t, LEVEL).x_0, clean, atol=1e-9)


def test_15_13_a_class_has_its_own_score():
    """The average over the posterior of one class, by quadrature."""
    one = LINE.components[1]
    data = np.exp(np.asarray(one.log_prob(X_0[:, None])))

    def average(x):
        weights = kernel(x) * data
        return jnp.sum(weights * (x - SIGNAL * X_0) / SIGMA) / jnp.sum(weights)

    exact = jax.vmap(jax.grad(lambda x: one.log_prob(x.reshape(1, 1), LEVEL)[0]))(X_T)
    np.testing.assert_allclose(exact, -on_line(average) / SIGMA, rtol=1e-8, atol=1e-9)


FINE = np.linspace(-5, 5, 1001)  # x_t
SPARSE = X_0[::8]
with jax.enable_x64(True):
    OF_X_T = np.exp(np.asarray(LINE.log_prob(FINE[:, None], LEVEL))) * (FINE[1] - FINE[0])
    JOINT = np.asarray(norm.pdf(FINE[:, None], SIGNAL * SPARSE, SIGMA)) * DATA[::8] * 8 * STEP * (FINE[1] - FINE[0])
OF_KERNEL = -(FINE[:, None] - SIGNAL * SPARSE) / SIGMA**2


@pytest.mark.parametrize("guess", [np.sin, lambda x: -0.9 * x], ids=["sine", "line"])
def test_15_14_the_cross_term_sees_only_the_average(guess):
    by_pairs = np.sum(JOINT * guess(FINE)[:, None] * OF_KERNEL)
    by_score = np.sum(OF_X_T * guess(FINE) * np.asarray(LINE_SCORE(FINE)))
    np.testing.assert_allclose(by_pairs, by_score, rtol=1e-8)


@pytest.mark.parametrize("guess", [np.sin, lambda x: -0.9 * x, lambda x: 0 * x], ids=["sine", "line", "zero"])
def test_15_15_both_errors_differ_by_a_constant(guess):
    exact = np.asarray(LINE_SCORE(FINE))
    from_kernel = np.sum(JOINT * (guess(FINE)[:, None] - OF_KERNEL) ** 2)
    from_score = np.sum(OF_X_T * (guess(FINE) - exact) ** 2)
    constant = 1 / SIGMA**2 - np.sum(OF_X_T * exact**2)  # the noise has variance 1
    np.testing.assert_allclose(from_kernel - from_score, constant, rtol=1e-7)


def test_15_16_the_error_of_the_noise_is_that_of_the_score():
    """The guess of the noise is `sin(x_t)`; the score of the kernel by automatic differentiation of its density."""
    eps = (FINE[:, None] - SIGNAL * SPARSE) / SIGMA
    of_noise = np.sum(JOINT * (eps - np.sin(FINE)[:, None]) ** 2)
    differentiate = jax.vmap(jax.vmap(jax.grad(norm.logpdf), (None, 0, None)), (0, None, None))
    of_kernel = np.asarray(differentiate(FINE, SIGNAL * SPARSE, SIGMA))
    of_score = np.sum(JOINT * (-np.sin(FINE)[:, None] / SIGMA - of_kernel) ** 2)
    np.testing.assert_allclose(of_noise, SIGMA**2 * of_score, rtol=1e-10)

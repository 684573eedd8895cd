"""The exact answers themselves, held to SciPy's densities and to integrals over the clean image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from support.analytic import ALL_ORACLES, GAUSSIAN, IMAGES, MIXTURE, each, normal, pick

from ddpm_jax.diffusion.analytic import FiniteData, Gaussian, GaussianMixture
from ddpm_jax.diffusion.arrays import expand_like
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
TIMES = [1, 30, 300, 1000]
ON_A_LINE = GaussianMixture([0.3, 0.7], [[-0.6], [0.5]], [[[0.04]], [[0.01]]])


def noisy(oracle, level, n=6):
    """Some noisy images of the oracle, and the level."""
    x_0 = oracle.sample(jax.random.key(0), n)
    eps = normal(*x_0.shape)
    return expand_like(level.signal, x_0) * x_0 + expand_like(level.sigma, x_0) * eps


def noised_log_pdf(x_t, mean, covariance, level):
    """SciPy's log density of a noised Gaussian."""
    var = level.signal**2 * np.asarray(covariance) + level.sigma**2 * np.eye(len(mean))
    return multivariate_normal(level.signal * mean, var).logpdf(x_t)


@pytest.mark.parametrize("t", [0, *TIMES])
def test_densities_of_gaussian_and_mixture_are_scipys(t):
    level = SCHEDULE.level(t)
    x = normal(5, 3)
    expected = noised_log_pdf(x, GAUSSIAN.mean, GAUSSIAN.covariance, level)
    np.testing.assert_allclose(GAUSSIAN.log_prob(x, level), expected, rtol=1e-10)

    x = normal(5, 2)
    parts = zip(MIXTURE.weights, MIXTURE.means, MIXTURE.covariances, strict=True)
    joint = np.stack([np.log(w) + noised_log_pdf(x, m, c, level) for w, m, c in parts], axis=-1)
    log_prob = logsumexp(joint, axis=-1)
    np.testing.assert_allclose(MIXTURE.log_prob(x, level), log_prob, rtol=1e-10)
    np.testing.assert_allclose(MIXTURE.log_prob_label(x, level), joint - log_prob[:, None], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_density_of_finite_data_is_a_mean_of_normal_densities(t):
    level = SCHEDULE.level(t)
    x_t = noisy(IMAGES, level)
    points, flat = IMAGES.points.reshape(3, 16), x_t.reshape(-1, 16)
    parts = np.stack([noised_log_pdf(flat, point, np.zeros((16, 16)), level) for point in points])
    np.testing.assert_allclose(IMAGES.log_prob(x_t, level), logsumexp(parts, axis=0) - np.log(3), rtol=1e-10)


@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_density_without_a_level_is_that_of_clean_images(oracle):
    x = normal(5, oracle.mean.size)
    np.testing.assert_array_equal(oracle.log_prob(x), oracle.log_prob(x, SCHEDULE.level(0)))


@pytest.mark.parametrize("t", TIMES)
def test_denoiser_is_the_posterior_mean_by_integration(t):
    """`E[x_0 | x_t] = ∫ x_0 q(x_0) q(x_t | x_0) dx_0 / q(x_t)`, and so for eps, on a grid of clean images."""
    mixture, level = ON_A_LINE, SCHEDULE.level(t)
    x_t = np.array([[-0.8], [0.1], [0.9]])
    x_0 = np.linspace(-3, 3, 60001)[:, None]
    log_joint = np.asarray(mixture.log_prob(x_0))[:, None] - 0.5 * ((x_t.T - level.signal * x_0) / level.sigma) ** 2
    weight = np.exp(log_joint - np.max(log_joint, axis=0))
    weight = weight / weight.sum(axis=0)
    prediction = mixture.denoiser(x_t, level)
    np.testing.assert_allclose(prediction.x_0[:, 0], np.sum(weight * x_0, axis=0), rtol=1e-8)
    eps = (x_t.T - level.signal * x_0) / level.sigma
    np.testing.assert_allclose(prediction.eps[:, 0], np.sum(weight * eps, axis=0), rtol=1e-6)


@each("oracle", ALL_ORACLES)
def test_predictions_explain_the_noisy_image_and_batch_levels(oracle):
    level = SCHEDULE.level(TIMES)
    x_t = noisy(oracle, level, n=4)
    denoise, density = jax.jit(oracle.denoiser), jax.jit(oracle.log_prob)
    x_0, eps, *others = denoise(x_t, level)
    explained = expand_like(level.signal, x_t) * x_0 + expand_like(level.sigma, x_t) * eps
    np.testing.assert_allclose(explained, x_t, rtol=1e-10)
    assert set(others) == {None}
    log_prob = density(x_t, level)
    for i in range(4):
        one = x_t[i : i + 1], pick(level, i)
        np.testing.assert_allclose(denoise(*one).x_0[0], x_0[i], rtol=1e-10)
        np.testing.assert_allclose(density(*one)[0], log_prob[i], rtol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_the_posterior_of_finite_data_is_bayes_rule(t):
    """By SciPy's densities; its mean of the images is the denoiser."""
    level = SCHEDULE.level(t)
    x_t = noisy(IMAGES, level)
    points, flat = IMAGES.points.reshape(3, 16), x_t.reshape(-1, 16)
    joint = np.stack([noised_log_pdf(flat, point, np.zeros((16, 16)), level) for point in points], axis=-1)
    log_prob = IMAGES.log_prob_point(x_t, level)
    np.testing.assert_allclose(log_prob, joint - logsumexp(joint, axis=-1, keepdims=True), rtol=1e-8, atol=1e-10)
    mean = np.tensordot(np.exp(log_prob), IMAGES.points, 1)
    np.testing.assert_allclose(IMAGES.denoiser(x_t, level).x_0, mean, rtol=1e-9, atol=1e-12)


def test_points_are_a_mixture_without_covariance():
    level = SCHEDULE.level([1, 1, 30, 300, 300, 1000])
    points = normal(3, 2)
    finite, mixture = FiniteData(points), GaussianMixture(np.full(3, 1 / 3), points, np.zeros((3, 2, 2)))
    x_t = noisy(finite, level)
    np.testing.assert_allclose(finite.log_prob(x_t, level), mixture.log_prob(x_t, level), rtol=1e-9)
    np.testing.assert_allclose(finite.denoiser(x_t, level).x_0, mixture.denoiser(x_t, level).x_0, rtol=1e-9)


def test_one_class_is_a_gaussian():
    level = SCHEDULE.level(300)
    mixture = GaussianMixture([1.0], [GAUSSIAN.mean], [GAUSSIAN.covariance])
    x_t = noisy(GAUSSIAN, level)
    np.testing.assert_allclose(mixture.log_prob(x_t, level), GAUSSIAN.log_prob(x_t, level), rtol=1e-12)
    np.testing.assert_allclose(mixture.denoiser(x_t, level).eps, GAUSSIAN.denoiser(x_t, level).eps, rtol=1e-12)


def test_finite_data_remembers_in_little_noise_and_averages_in_much():
    level = SCHEDULE.level([10, 1000])
    x_t = noisy(IMAGES, level, n=2).at[0].set(pick(level, 0).signal * IMAGES.points[1] + 0.01)
    x_0 = IMAGES.denoiser(x_t, level).x_0
    np.testing.assert_allclose(x_0[0], IMAGES.points[1], atol=1e-12)
    np.testing.assert_allclose(x_0[1], IMAGES.points.mean(axis=0), atol=0.1)


def test_images_may_have_any_shape():
    level = SCHEDULE.level(300)
    covariance = np.cov(normal(4, 9))
    flat, square = Gaussian(np.arange(4.0), covariance), Gaussian(np.arange(4.0).reshape(2, 2, 1), covariance)
    x_t = noisy(square, level)
    assert x_t.shape == (6, 2, 2, 1)
    np.testing.assert_allclose(square.sample(jax.random.key(0), 6).reshape(6, 4), flat.sample(jax.random.key(0), 6))
    np.testing.assert_allclose(
        square.denoiser(x_t, level).x_0.reshape(6, 4), flat.denoiser(x_t.reshape(6, 4), level).x_0
    )
    mixture = GaussianMixture([0.5, 0.5], [square.mean, -square.mean], [covariance, covariance])
    assert mixture.denoiser(x_t, level).eps.shape == mixture.sample(jax.random.key(0), 6).shape == x_t.shape
    assert mixture.mean.shape == (2, 2, 1)


@each("oracle", ALL_ORACLES)
def test_without_float64_the_answers_are_float32(oracle):
    level = SCHEDULE.level(300)
    x_t = np.float32(noisy(oracle, level))
    exact = oracle.denoiser(jnp.float64(x_t), level)
    with jax.enable_x64(False):
        prediction = jax.jit(oracle.denoiser)(x_t, level)
        log_prob = jax.jit(oracle.log_prob)(x_t, level)
        assert prediction.x_0.dtype == prediction.eps.dtype == log_prob.dtype == jnp.float32
        np.testing.assert_allclose(prediction.x_0, exact.x_0, atol=1e-5)
        np.testing.assert_allclose(prediction.eps, exact.eps, atol=1e-5)


@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_samples_have_the_exact_mean_and_covariance(oracle):
    num = 40000
    x = oracle.sample(jax.random.key(1), num)
    var = np.diag(oracle.covariance)
    assert np.all(np.abs(np.mean(x, axis=0) - oracle.mean) < 5 * np.sqrt(var / num))
    # The variance of a sample covariance's entry is at most that of a Gaussian's, 2 var**2 / num, here.
    assert np.all(np.abs(np.cov(x.T) - oracle.covariance) < 5 * np.sqrt(2 * np.outer(var, var) / num))


def test_samples_of_classes_and_points_are_as_frequent_as_they_should_be():
    num = 40000
    x = MIXTURE.sample(jax.random.key(1), num)
    label = jnp.argmax(MIXTURE.log_prob_label(x), axis=-1)
    expected = np.exp(MIXTURE.log_prob_label(x)).mean(axis=0)
    np.testing.assert_allclose(expected, MIXTURE.weights, atol=5 * np.sqrt(0.25 / num))
    np.testing.assert_allclose(np.bincount(label) / num, MIXTURE.weights, atol=5 * np.sqrt(0.25 / num))
    which = jnp.all(IMAGES.sample(jax.random.key(4), num)[:, None] == IMAGES.points, axis=(2, 3, 4))
    np.testing.assert_array_equal(which.sum(axis=1), 1)
    np.testing.assert_allclose(which.mean(axis=0), 1 / 3, atol=5 * np.sqrt(0.25 / num))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Gaussian([0.0, 0.0], np.eye(3)), "covariance must be"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "negative"),
        (lambda: GaussianMixture([0.5, 0.6], np.zeros((2, 1)), np.ones((2, 1, 1))), "sum to 1"),
        (lambda: GaussianMixture([1.0, 0.0], np.zeros((2, 1)), np.ones((2, 1, 1))), "positive"),
        (lambda: GaussianMixture([0.5, 0.5], np.zeros((3, 1)), np.ones((2, 1, 1))), "per class"),
    ],
)
def test_what_is_no_distribution_is_refused(make, what):
    with pytest.raises(ValueError, match=what):
        make()


@each("oracle", ALL_ORACLES)
def test_an_oracle_is_fixed_and_equal_to_itself_alone(oracle):
    name = dataclasses.fields(oracle)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(oracle, name, 0)
    other = dataclasses.replace(oracle)
    assert oracle == oracle
    assert oracle != other
    assert {oracle: 1}[oracle] == 1

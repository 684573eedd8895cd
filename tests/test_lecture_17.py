"""Row 17 of the lecture: the difference of two scores is a classifier's gradient, and what a scale above 1 samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, keys, normal
from support.line import LINE, ON_LINE, log_class_of_noisy

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import FiniteData, Gaussian
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.guidance import classifier_free, classifier_guided, hide_labels, side_by_side
from ddpm_jax.diffusion.samplers import ddim, heun, sample
from ddpm_jax.diffusion.schedules import NoiseLevel, cosine, linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

CLASS, W = 1, 1.5
SCALE = 1 + W
LEVEL = linear(1000).level(250)
SIGNAL, SIGMA = float(LEVEL.signal), float(LEVEL.sigma)
ONE = MIXTURE.components[CLASS]
with jax.enable_x64(True):
    X_T = np.asarray(q_sample(MIXTURE.sample(jax.random.key(1), 32), normal(32, 2), LEVEL))
    EPS, EPS_Y = (np.asarray(d(X_T, LEVEL).eps) for d in (MIXTURE.denoiser, ONE.denoiser))
TWO = side_by_side(ONE.denoiser, MIXTURE.denoiser)


def classifier(x_t, level=LEVEL):
    """`log p(CLASS | x_t)` `[B]`, exactly."""
    return MIXTURE.log_prob_label(x_t, level)[:, CLASS]


def gradient(function):
    return np.asarray(jax.grad(lambda x: jnp.sum(function(x)))(jnp.asarray(X_T)))


with jax.enable_x64(True):
    GRADIENT = gradient(classifier)


def test_17_1_bayes_rule_gives_a_classifier():
    """The classifier by quadrature over clean points, the densities in closed form."""
    points = ON_LINE[:, None]
    written = LINE.components[0].log_prob(points, LEVEL) - LINE.log_prob(points, LEVEL) + np.log(0.3)
    np.testing.assert_allclose(log_class_of_noisy(ON_LINE, LEVEL), written, rtol=1e-7, atol=1e-9)


def test_17_2_its_gradient_is_the_difference_of_two_scores():
    """The left side by differentiating the quadrature."""
    points = ON_LINE[:, None]
    of_class, of_all = (
        jax.grad(lambda x, density=density: density.log_prob(x, LEVEL).sum())(points)[:, 0]
        for density in (LINE.components[0], LINE)
    )
    ours = jax.grad(lambda x: log_class_of_noisy(x, LEVEL).sum())(ON_LINE)
    np.testing.assert_allclose(ours, of_class - of_all, rtol=1e-7, atol=1e-8)


def test_17_3_the_implicit_classifier_of_two_predictions():
    np.testing.assert_allclose(GRADIENT, -(EPS_Y - EPS) / SIGMA, rtol=1e-7, atol=1e-9)


def test_17_4_the_scale_multiplies_the_difference():
    by_classifier = classifier_guided(MIXTURE.denoiser, classifier, SCALE)(X_T, LEVEL).eps
    np.testing.assert_allclose(by_classifier, EPS + SCALE * (EPS_Y - EPS), rtol=1e-7, atol=1e-9)


def test_17_5_the_form_of_the_package():
    np.testing.assert_allclose(classifier_free(TWO, SCALE)(X_T, LEVEL).eps, EPS + SCALE * (EPS_Y - EPS), rtol=1e-9)


def test_17_6_the_form_of_the_notes():
    np.testing.assert_allclose(classifier_free(TWO, SCALE)(X_T, LEVEL).eps, (1 + W) * EPS_Y - W * EPS, rtol=1e-9)


def test_17_7_guidance_of_the_conditional_model_by_w():
    by_classifier = classifier_guided(ONE.denoiser, classifier, W)(X_T, LEVEL).eps
    np.testing.assert_allclose(by_classifier, (1 + W) * EPS_Y - W * EPS, rtol=1e-7, atol=1e-9)


# Five points with classes, and every pair (point, label that the network is given) with its probability.
POINTS = np.array([[-1.0, 0.2], [-0.4, 0.9], [0.3, -0.5], [0.8, 0.1], [0.9, 0.8]])
LABELS, NULL, RATE = np.array([0, 0, 1, 1, 1]), 2, 0.2
GIVEN = np.zeros((5, 3))
GIVEN[np.arange(5), LABELS] = (1 - RATE) / 5
GIVEN[:, NULL] = RATE / 5


def test_17_8_the_images_without_a_label_are_all_images():
    np.testing.assert_allclose(GIVEN[:, NULL] / GIVEN[:, NULL].sum(), 1 / 5, rtol=1e-12)
    hidden = np.asarray(hide_labels(np.tile(LABELS, 4000), keys(20000), rate=RATE, null=NULL))
    share = np.stack([hidden.reshape(-1, 5) == label for label in range(3)], axis=-1).mean(axis=0) / 5
    np.testing.assert_allclose(share, GIVEN, atol=5 * np.sqrt(RATE * (1 - RATE) / 4000) / 5)


@pytest.mark.parametrize(("label", "chosen"), [(NULL, [0, 1, 2, 3, 4]), (0, [0, 1]), (1, [2, 3, 4])])
def test_17_9_one_network_learns_both_averages(label, chosen):
    """The average of the noise over the pairs with this label, against the denoiser of the images meant."""
    x_t = normal(6, 2)
    eps = (x_t[:, None] - SIGNAL * POINTS) / SIGMA
    weights = GIVEN[:, label] * np.exp(-0.5 * np.sum(eps**2, axis=-1))
    average = np.einsum("bi,bid->bd", weights, eps) / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(average, FiniteData(POINTS[chosen]).denoiser(x_t, LEVEL).eps, rtol=1e-9, atol=1e-12)


def test_17_10_the_guided_score_is_that_of_a_tilted_density():
    tilted = gradient(lambda x: MIXTURE.log_prob(x, LEVEL) + SCALE * classifier(x))
    np.testing.assert_allclose(-classifier_free(TWO, SCALE)(X_T, LEVEL).eps / SIGMA, tilted, rtol=1e-7, atol=1e-8)


V, C = 1.0, 0.3  # variances of all images and of the class, both with mean 0
ALL, OF_CLASS = Gaussian(np.zeros(1), [[V]]), Gaussian(np.zeros(1), [[C]])
PAIR = side_by_side(OF_CLASS.denoiser, ALL.denoiser)
GAUSS_SCALE = 2.0
TILTED_VAR = 1 / (GAUSS_SCALE / C + (1 - GAUSS_SCALE) / V)
PLACES = np.linspace(-12, 12, 20001)[:, None]


def tilted_variance(level):
    """The variance of `p(x_t) p(y | x_t)**scale`, scaled to integral 1, by quadrature."""
    log_weights = GAUSS_SCALE * OF_CLASS.log_prob(PLACES, level) + (1 - GAUSS_SCALE) * ALL.log_prob(PLACES, level)
    weights = np.exp(log_weights - log_weights.max())
    return np.sum(weights * PLACES[:, 0] ** 2) / np.sum(weights)


def test_17_11_the_tilted_gaussian():
    np.testing.assert_allclose(tilted_variance(linear(1000).level(0)), TILTED_VAR, rtol=1e-8)


def test_17_12_noise_and_tilting_do_not_commute():
    exact = 1 / (GAUSS_SCALE / (SIGNAL**2 * C + SIGMA**2) + (1 - GAUSS_SCALE) / (SIGNAL**2 * V + SIGMA**2))
    np.testing.assert_allclose(tilted_variance(LEVEL), exact, rtol=1e-8)
    noisy = SIGNAL**2 * TILTED_VAR + SIGMA**2
    assert abs(exact - noisy) > 0.1 * noisy


def test_17_13_the_guided_noise_of_a_gaussian():
    x_bar, rho = np.array([[0.7], [-1.2]]), SIGMA / SIGNAL
    written = rho * (GAUSS_SCALE / (C + rho**2) + (1 - GAUSS_SCALE) / (V + rho**2)) * x_bar
    np.testing.assert_allclose(classifier_free(PAIR, GAUSS_SCALE)(SIGNAL * x_bar, LEVEL).eps, written, rtol=1e-9)


def factor(rho):
    """`(c + rho**2)**(scale / 2) (v + rho**2)**((1 - scale) / 2)`, to which the solution is proportional."""
    return (C + rho**2) ** (GAUSS_SCALE / 2) * (V + rho**2) ** ((1 - GAUSS_SCALE) / 2)


def test_17_14_the_solution_satisfies_the_equation():
    rho = 0.8
    level = NoiseLevel(t=1.0, signal=1 / np.sqrt(1 + rho**2), sigma=rho / np.sqrt(1 + rho**2))
    eps = classifier_free(PAIR, GAUSS_SCALE)(np.array([[level.signal * factor(rho)]]), level).eps
    np.testing.assert_allclose(jax.grad(factor)(rho), eps[0, 0], rtol=1e-9)


@pytest.mark.parametrize(("sampler", "error"), [(heun(), 1e-3), (ddim(), 0.02)], ids=["heun", "ddim"])
def test_17_15_the_guided_sampler_multiplies_by_a_known_factor(sampler, error):
    """Up to the error of the sampler, of second and of first order."""
    schedule = cosine(1000)
    grid = timesteps.log_snr(schedule, 400)
    guided = classifier_free(PAIR, GAUSS_SCALE)
    x = sample(sampler, guided, keys(1), x_T=np.ones((1, 1)), transitions=schedule.transitions(grid))
    alpha_bar = schedule.alpha_bar[int(grid[0])]
    expected = factor(0.0) / factor(np.sqrt(1 / alpha_bar - 1)) / np.sqrt(alpha_bar)
    np.testing.assert_allclose(x[0, 0], expected, rtol=error)


def test_17_16_the_samples_have_the_geometric_mean_of_the_variances():
    """The limit of large rho, where `x_bar` has the variance `rho**2`; the tilted density has another variance."""
    rho = 1e6
    variance = rho**2 * (factor(0.0) / factor(rho)) ** 2
    np.testing.assert_allclose(variance, C**GAUSS_SCALE * V ** (1 - GAUSS_SCALE), rtol=1e-9)
    assert variance < 0.6 * TILTED_VAR

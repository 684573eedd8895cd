"""Row 16 of the lecture: Bayes' rule for a classifier of noisy images, and why a classifier of clean images fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from support.analytic import MIXTURE, normal
from support.line import LINE, ON_LINE, log_class_of_noisy

from ddpm_jax.diffusion.analytic import GaussianMixture
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.guidance import classifier_guided
from ddpm_jax.diffusion.prediction import Prediction, x_0_from_eps
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE, CLASS, SCALE = linear(1000), 1, 2.5
LEVEL = SCHEDULE.level(250)
SIGNAL, SIGMA = float(LEVEL.signal), float(LEVEL.sigma)
ONE = MIXTURE.components[CLASS]
with jax.enable_x64(True):
    X_T = np.asarray(q_sample(MIXTURE.sample(jax.random.key(1), 32), normal(32, 2), LEVEL))


def classifier(x_t, level=LEVEL):
    """`log p(CLASS | x_t)` `[B]`, exactly."""
    return MIXTURE.log_prob_label(x_t, level)[:, CLASS]


def gradient(function, x_t=X_T):
    return np.asarray(jax.grad(lambda x: jnp.sum(function(x)))(jnp.asarray(x_t)))


with jax.enable_x64(True):
    GRADIENT = gradient(classifier)


def guided(scale=SCALE, level=LEVEL, x_t=X_T):
    return classifier_guided(MIXTURE.denoiser, classifier, scale)(x_t, level)


def log_density(density, x_t):
    """`log p(x_t)` `[B]` of a density on the line, in closed form."""
    return density.log_prob(jnp.reshape(x_t, (-1, 1)), LEVEL)


def test_16_1_bayes_rule_for_a_noisy_image():
    """The classifier by quadrature over clean points, the densities in closed form."""
    written = np.exp(log_density(LINE, ON_LINE)) * np.exp(log_class_of_noisy(ON_LINE, LEVEL)) / 0.3
    np.testing.assert_allclose(np.exp(log_density(LINE.components[0], ON_LINE)), written, rtol=1e-8)


def test_16_2_its_logarithm():
    written = log_density(LINE, ON_LINE) + log_class_of_noisy(ON_LINE, LEVEL) - np.log(0.3)
    np.testing.assert_allclose(log_density(LINE.components[0], ON_LINE), written, rtol=1e-8)


def test_16_3_the_probability_of_the_class_drops_out_of_the_gradient():
    """Each term is differentiated alone; the class may have any probability."""
    on_line = lambda function: gradient(function, ON_LINE)
    of_class = on_line(lambda x: log_density(LINE.components[0], x))
    rare = GaussianMixture([0.01, 0.99], LINE.means, LINE.covariances)
    scores = []
    for density in (LINE, rare):
        scores.append(on_line(lambda x, density=density: log_density(density, x)))
        of_classifier = on_line(lambda x, density=density: log_class_of_noisy(x, LEVEL, density))
        np.testing.assert_allclose(of_class, scores[-1] + of_classifier, rtol=1e-7, atol=1e-8)
    assert np.abs(scores[0] - scores[1]).max() > 1


def test_16_4_the_noisy_classifier_averages_the_clean_one():
    x_0, x_t = np.linspace(-5, 5, 4001), np.linspace(-2.5, 2.5, 23)
    clean = np.exp(LINE.log_prob_label(x_0[:, None]))[:, 0]
    weights = np.asarray(norm.pdf(x_t[:, None], SIGNAL * x_0, SIGMA)) * np.exp(LINE.log_prob(x_0[:, None]))
    average = (weights @ clean) / weights.sum(axis=1)
    np.testing.assert_allclose(np.exp(LINE.log_prob_label(x_t[:, None], LEVEL))[:, 0], average, rtol=1e-8)


def test_16_5_the_noise_of_the_class():
    written = MIXTURE.denoiser(X_T, LEVEL).eps - SIGMA * GRADIENT
    np.testing.assert_allclose(ONE.denoiser(X_T, LEVEL).eps, written, rtol=1e-7, atol=1e-9)


def test_16_6_a_scale_raises_the_classifier_to_a_power():
    tilted = gradient(lambda x: MIXTURE.log_prob(x, LEVEL) + SCALE * classifier(x))
    np.testing.assert_allclose(guided().eps, -SIGMA * tilted, rtol=1e-7, atol=1e-9)


def test_16_7_the_shift_of_the_estimate_of_the_clean_image():
    shift = guided().x_0 - MIXTURE.denoiser(X_T, LEVEL).x_0
    np.testing.assert_allclose(shift, SCALE * SIGMA**2 / SIGNAL * GRADIENT, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(guided().x_0, x_0_from_eps(guided().eps, X_T, LEVEL), rtol=1e-8, atol=1e-10)


def test_16_8_the_shift_of_the_mean_of_a_step():
    transition = jax.tree.map(lambda leaf: leaf[0], SCHEDULE.transitions(np.array([250, 249])))
    beta = 1 - SCHEDULE.alpha_bar[250] / SCHEDULE.alpha_bar[249]
    means = [p_mean_log_var(p, X_T, transition, Variance.SMALL)[0] for p in (guided(), MIXTURE.denoiser(X_T, LEVEL))]
    np.testing.assert_allclose(means[0] - means[1], SCALE * beta / np.sqrt(1 - beta) * GRADIENT, rtol=1e-6, atol=1e-10)


M, C = np.array([0.7, -0.2]), 0.08
PAIR = GaussianMixture(weights=[0.5, 0.5], means=[M, -M], covariances=[C * np.eye(2)] * 2)


def log_odds(x_t, level):
    log_probs = PAIR.log_prob_label(x_t, level)
    return log_probs[:, 0] - log_probs[:, 1]


def test_16_9_the_gradient_of_a_class_is_that_of_the_odds_times_the_doubt():
    of_class = gradient(lambda x: PAIR.log_prob_label(x, LEVEL)[:, 0])
    doubt = np.exp(PAIR.log_prob_label(X_T, LEVEL))[:, 1:]
    np.testing.assert_allclose(of_class, doubt * gradient(lambda x: log_odds(x, LEVEL)), rtol=1e-7, atol=1e-10)


def test_16_10_the_odds_of_noisy_images_are_nearly_flat():
    written = 2 * SIGNAL * M / (SIGNAL**2 * C + SIGMA**2)
    np.testing.assert_allclose(gradient(lambda x: log_odds(x, LEVEL)), np.tile(written, (32, 1)), rtol=1e-8)


def test_16_11_the_odds_of_clean_images_are_steep():
    clean = SCHEDULE.level(0)
    np.testing.assert_allclose(gradient(lambda x: log_odds(x, clean)), np.tile(2 * M / C, (32, 1)), rtol=1e-8)


@pytest.mark.parametrize("t", [100, 500, 1000])
def test_16_12_the_clean_gradient_is_too_long_by_a_known_factor(t):
    level, alpha_bar = SCHEDULE.level(t), SCHEDULE.alpha_bar[t]
    ratio = gradient(lambda x: log_odds(x, SCHEDULE.level(0))) / gradient(lambda x: log_odds(x, level))
    np.testing.assert_allclose(ratio, (alpha_bar * C + 1 - alpha_bar) / (np.sqrt(alpha_bar) * C), rtol=1e-6)
    assert np.all(ratio > 1)


def test_the_prediction_stays_consistent():
    """Guided noise and guided clean image still give x_t."""
    prediction: Prediction = guided()
    np.testing.assert_allclose(q_sample(prediction.x_0, prediction.eps, LEVEL), X_T, atol=1e-10)

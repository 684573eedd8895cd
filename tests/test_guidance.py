"""Guidance on a mixture whose classifier is known exactly, its identities, and clipping that keeps x_t explained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, each, keys, normal

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import expand_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.guidance import (
    classifier_free,
    classifier_guided,
    clip_x_0,
    hide_labels,
    in_one_batch,
    label_log_prob,
    side_by_side,
)
from ddpm_jax.diffusion.prediction import Prediction, Target
from ddpm_jax.diffusion.samplers import Variance, ancestral, ddim, dpm_solver_pp_2m, heun, sample
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")

LEVEL = linear(1000).level([1, 400, 1000])


def denoiser_of(x_0):
    """A denoiser that always says x_0, and has a variance head."""
    return lambda x_t, level: Target.X_0.prediction(x_0, x_t, level)._replace(var_frac=0.25)


def test_a_clipped_prediction_still_explains_the_noisy_image():
    x_0, eps = normal(2, 3, 2, 2, 1)
    x_t = q_sample(x_0, eps, LEVEL)
    clipped = clip_x_0(denoiser_of(3 * x_0))(x_t, LEVEL)
    np.testing.assert_array_equal(clipped.x_0, np.clip(3 * x_0, -1, 1))
    assert np.any(np.abs(3 * x_0) > 1)
    explained = expand_like(LEVEL.signal, x_t) * clipped.x_0 + expand_like(LEVEL.sigma, x_t) * clipped.eps
    np.testing.assert_allclose(explained, x_t, rtol=1e-12)
    assert clipped.var_frac == 0.25


def test_clipping_leaves_predictions_inside_the_range_alone():
    x_0, eps = np.tanh(normal(3, 2, 2, 1)), normal(3, 2, 2, 1, seed=1)
    x_t = q_sample(x_0, eps, LEVEL)
    clipped = clip_x_0(denoiser_of(x_0))(x_t, LEVEL)
    np.testing.assert_array_equal(clipped.x_0, x_0)
    np.testing.assert_allclose(clipped.eps, eps, rtol=1e-9, atol=1e-12)


def test_clipping_keeps_to_the_given_range():
    x_0 = np.array([[-2.0, -0.5, 0.1, 2.0]] * 3)
    clipped = clip_x_0(denoiser_of(x_0), -0.25, 0.75)(x_0, LEVEL)
    np.testing.assert_array_equal(clipped.x_0[0], [-0.25, -0.25, 0.1, 0.75])


COMPONENT, T_GRID = 1, cosine(1000)
CHAINS = {
    "ancestral-small": (ancestral(Variance.SMALL), timesteps.trailing(T_GRID, 1000)),
    "ddim": (ddim(), timesteps.log_snr(T_GRID, 400)),
    "heun": (heun(), timesteps.log_snr(T_GRID, 60)),
    "dpm_solver_pp_2m": (dpm_solver_pp_2m(), timesteps.log_snr(T_GRID, 60)),
}


def right_classifier(x_t, level):
    """`log p(COMPONENT | x_t)` of the mixture, exactly."""
    return MIXTURE.log_prob_label(x_t, level)[:, COMPONENT]


def unguided_and_scaled(scale):
    return classifier_guided(MIXTURE.denoiser, right_classifier, scale)


@each("chain", CHAINS)
def test_a_right_classifier_draws_from_its_class(chain):
    """Scale 1 turns the mixture's denoiser into the component's: the chain has that Gaussian's mean and covariance."""
    (sampler, times), num, target = chain, 4096, MIXTURE.components[COMPONENT]
    transitions = T_GRID.transitions(times)
    x = sample(sampler, unguided_and_scaled(1.0), keys(num), x_T=normal(num, 2), transitions=transitions)
    error = np.sqrt(np.diag(target.covariance) / num)
    assert np.all(np.abs(x.mean(axis=0) - target.mean) < 4 * error + 0.002)
    np.testing.assert_allclose(np.std(x, axis=0), np.sqrt(np.diag(target.covariance)), rtol=4 / np.sqrt(2 * num) + 0.01)


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_a_right_classifier_makes_the_class_denoiser(t):
    """`grad log p(x_t) + grad log p(y | x_t) = grad log p(x_t | y)` (row 16 of the notes), for x_0 and for eps."""
    level = T_GRID.level(t)
    x_t = q_sample(MIXTURE.sample(jax.random.key(1), 64), normal(64, 2), level)
    guided, exact = unguided_and_scaled(1.0)(x_t, level), MIXTURE.components[COMPONENT].denoiser(x_t, level)
    np.testing.assert_allclose(guided.eps, exact.eps, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(guided.x_0, exact.x_0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_both_methods_of_guidance_are_one(t):
    """With right networks `eps(x_t, y) - eps(x_t)` is the classifier's gradient, so any scale gives the same."""
    level = T_GRID.level(t)
    x_t = q_sample(MIXTURE.sample(jax.random.key(1), 64), normal(64, 2), level)
    both = side_by_side(MIXTURE.components[COMPONENT].denoiser, MIXTURE.denoiser)
    by_networks, by_classifier = classifier_free(both, 2.5)(x_t, level), unguided_and_scaled(2.5)(x_t, level)
    np.testing.assert_allclose(by_networks.eps, by_classifier.eps, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(by_networks.x_0, by_classifier.x_0, rtol=1e-7, atol=1e-7)


def test_the_notes_write_w_for_scale_minus_one():
    """`(1 + w) eps(x_t, y) - w eps(x_t)` (row 17 of the notes)."""
    x_t, level, w = normal(5, 2), T_GRID.level(400), 1.7
    conditional, unconditional = MIXTURE.components[COMPONENT].denoiser, MIXTURE.denoiser
    guided = classifier_free(side_by_side(conditional, unconditional), 1 + w)(x_t, level)
    expected = (1 + w) * conditional(x_t, level).eps - w * unconditional(x_t, level).eps
    np.testing.assert_allclose(guided.eps, expected, rtol=1e-12)


def with_variance(denoise, var_frac):
    return lambda x_t, level: denoise(x_t, level)._replace(var_frac=jnp.full(x_t.shape, var_frac))


CLASS = with_variance(MIXTURE.components[COMPONENT].denoiser, 0.3)
ANY = with_variance(MIXTURE.denoiser, 0.8)


def assert_same(denoise, other):
    for t in (1, 400, 1000):
        x_t, level = normal(64, 2), T_GRID.level(t)
        jax.tree.map(np.testing.assert_array_equal, denoise(x_t, level), other(x_t, level))


def test_scale_one_is_conditional_and_zero_unconditional_bit_for_bit():
    assert_same(classifier_free(side_by_side(CLASS, ANY), 1.0), CLASS)
    unconditional = with_variance(MIXTURE.denoiser, 0.3)
    assert_same(classifier_free(side_by_side(CLASS, unconditional), 0.0), unconditional)


def test_classifier_scale_zero_is_unguided_bit_for_bit():
    assert_same(classifier_guided(ANY, right_classifier, 0.0), ANY)


def test_guidance_passes_the_variance_through():
    """The classifier's changes nothing of it; of two it is the conditional denoiser's."""
    x_t, level = normal(5, 2), T_GRID.level(400)
    for denoise in (classifier_guided(CLASS, right_classifier, 3.0), classifier_free(side_by_side(CLASS, ANY), 3.0)):
        np.testing.assert_array_equal(denoise(x_t, level).var_frac, np.full((5, 2), 0.3))


@pytest.mark.parametrize("t", [400, np.array([1, 400, 1000])], ids=["one time", "each its own"])
def test_guided_predictions_still_explain_the_noisy_image(t):
    x_t, level = normal(3, 2), T_GRID.level(t)
    for denoise in (classifier_guided(CLASS, right_classifier, 3.0), classifier_free(side_by_side(CLASS, ANY), 3.0)):
        said = denoise(x_t, level)
        explained = expand_like(level.signal, x_t) * said.x_0 + expand_like(level.sigma, x_t) * said.eps
        np.testing.assert_allclose(explained, x_t, rtol=1e-9)


@pytest.mark.parametrize("t", [400, np.array([1, 400, 1000])], ids=["one time", "each its own"])
def test_one_batch_is_two(t):
    """A network told the class and not, in one call, each image beside its double."""
    calls, label, x_t, level = [], np.array([2, 0, 1]), normal(3, 2), T_GRID.level(t)

    def network(label):
        def denoise(x_t, level):
            calls.append(len(x_t))
            eps = x_t * expand_like(label + 1.0, x_t) + expand_like(jnp.asarray(level.t), x_t)
            return Prediction(-eps, eps)

        return denoise

    hidden = np.full(3, 3)
    both = in_one_batch(network(np.stack([label, hidden], axis=1).ravel()))
    for one, alone in zip(both(x_t, level), side_by_side(network(label), network(hidden))(x_t, level), strict=True):
        np.testing.assert_array_equal(one.eps, alone.eps)
        np.testing.assert_array_equal(one.x_0, alone.x_0)
        assert one.var_frac is None
    assert calls[0] == 6


def test_labels_are_hidden_at_the_rate_and_by_each_images_key():
    label, image_keys = np.arange(4000) % 10, keys(4000)
    shown = hide_labels(label, image_keys, rate=0.2, null=10)
    hidden = shown == 10
    assert abs(hidden.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)
    np.testing.assert_array_equal(shown[~hidden], label[~hidden])
    np.testing.assert_array_equal(hide_labels(label[7:9], image_keys[7:9], rate=0.2, null=10), shown[7:9])
    assert not np.any(hide_labels(label, image_keys, rate=0.0, null=10) == 10)


def test_a_label_is_picked_from_its_row():
    log_probs = np.log([[0.2, 0.8], [0.7, 0.3]])
    chosen = label_log_prob(lambda x_t, level: jnp.asarray(log_probs), np.array([1, 0]))(None, None)
    np.testing.assert_allclose(np.exp(chosen), [0.8, 0.7], rtol=1e-12)

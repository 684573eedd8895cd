"""Noise, image, velocity and score say the same; the best denoiser is the posterior mean, and it is the score."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_ORACLES, ALL_TARGETS, GAUSSIAN, MIXTURE, each, normal, pick

from ddpm_jax.diffusion.analytic import FiniteData, Gaussian, GaussianMixture
from ddpm_jax.diffusion.gaussian import q_posterior, q_sample
from ddpm_jax.diffusion.prediction import (
    Prediction,
    Target,
    as_denoiser,
    edm_denoiser,
    eps_from_score,
    eps_from_x_0,
    score,
    x_0_from_eps,
)
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
LEVELS = {
    "each its own": SCHEDULE.level([1, 10, 500, 1000]),
    **{f"t={t}": SCHEDULE.level(t) for t in (1, 1000)},
}
X_0, EPS = normal(2, 4, 2, 2, 3)


@each("target", ALL_TARGETS)
@each("level", LEVELS)
def test_a_target_and_its_prediction_are_inverse(target, level):
    x_t = q_sample(X_0, EPS, level)
    prediction = target.prediction(target.of(X_0, EPS, level), x_t, level)
    np.testing.assert_allclose(prediction.x_0, X_0, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(prediction.eps, EPS, rtol=1e-9, atol=1e-12)


@each("target", ALL_TARGETS)
def test_predictions_explain_the_noisy_image_whatever_the_output(target):
    level, x_t, output = LEVELS["each its own"], X_0, EPS
    prediction = target.prediction(output, x_t, level)
    np.testing.assert_allclose(q_sample(prediction.x_0, prediction.eps, level), x_t, rtol=1e-9)
    np.testing.assert_allclose(target.of(prediction.x_0, prediction.eps, level), output, rtol=1e-9)


def test_targets_are_what_they_are_called():
    level = LEVELS["each its own"]
    np.testing.assert_array_equal(Target.EPS.of(X_0, EPS, level), EPS)
    np.testing.assert_array_equal(Target.X_0.of(X_0, EPS, level), X_0)


def test_v_is_the_velocity_along_the_angle():
    """With `signal = cos phi` and `sigma = sin phi`, `v = d x_t / d phi` (Salimans & Ho 2022, appendix D)."""
    level = SCHEDULE.level(300)
    angle = jnp.arctan2(level.sigma, level.signal)
    _, velocity = jax.jvp(lambda phi: jnp.cos(phi) * X_0 + jnp.sin(phi) * EPS, (angle,), (1.0,))
    np.testing.assert_allclose(Target.V.of(X_0, EPS, level), velocity, rtol=1e-10)


@each("level", LEVELS)
def test_noise_image_and_score_convert_there_and_back(level):
    x_t = q_sample(X_0, EPS, level)
    np.testing.assert_allclose(eps_from_x_0(X_0, x_t, level), EPS, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(x_0_from_eps(EPS, x_t, level), X_0, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(eps_from_score(score(Prediction(X_0, EPS), level), level), EPS, rtol=1e-12)


@each("oracle", ALL_ORACLES)
def test_the_best_denoiser_is_the_score_of_the_noisy_density(oracle):
    level = SCHEDULE.level(np.repeat([1, 100, 700, 1000], 3))
    x_0 = oracle.sample(jax.random.key(0), 12)
    x_t = q_sample(x_0, normal(*x_0.shape), level)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(oracle.log_prob(x, level))))(x_t)
    np.testing.assert_allclose(score(jax.jit(oracle.denoiser)(x_t, level), level), gradient, rtol=1e-8, atol=1e-8)


def test_the_noise_that_was_added_is_the_score_of_its_kernel():
    """`grad log q(x_t | x_0) = -eps / sigma`: the data distribution is one point."""
    level, x_0 = SCHEDULE.level(200), X_0[0].ravel()
    x_t = q_sample(np.tile(x_0, (4, 1)), EPS.reshape(4, -1), level)
    kernel = FiniteData([x_0])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(kernel.log_prob(x, level))))(x_t)
    np.testing.assert_allclose(gradient, -EPS.reshape(4, -1) / level.sigma, rtol=1e-10)


def joint_quadrature(oracle, order=120):
    """Nodes and weights `(x_0 [n, 1], eps [n, 1], weight [n])` of q(x_0) N(eps; 0, 1) on a line."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    if isinstance(oracle, FiniteData):
        clean = [(float(p[0]), 1 / len(oracle.points)) for p in oracle.points]
    else:
        parts = zip(oracle.weights, oracle.means[:, 0], oracle.covariances[:, 0, 0], strict=True)
        clean = [(m + np.sqrt(c) * z, w * v) for w, m, c in parts for z, v in zip(nodes, weights, strict=True)]
    pairs = itertools.product(clean, zip(nodes, weights, strict=True))
    x_0, eps, weight = np.array([(x, e, w * v) for (x, w), (e, v) in pairs]).T
    return x_0[:, None], eps[:, None], weight


ON_A_LINE = {
    "gaussian": GaussianMixture([1.0], [[0.3]], [[[0.5]]]),
    "mixture": GaussianMixture([0.3, 0.7], [[-0.6], [0.5]], [[[0.04]], [[0.09]]]),
    "points": FiniteData([[-1.0], [0.1], [0.8]]),
}
CHANGES = (lambda x_t: 0.3 + 0 * x_t, lambda x_t: -0.2 * x_t, lambda x_t: np.sin(2 * x_t))


@each("oracle", ON_A_LINE)
@pytest.mark.parametrize("t", [300, 700])
def test_any_change_of_the_posterior_mean_costs_its_square(oracle, t):
    """The error has its minimum there: `E (eps - (eps* + d))**2 = E (eps - eps*)**2 + E d**2`, by quadrature."""
    level = SCHEDULE.level(t)
    x_0, eps, weight = joint_quadrature(oracle)
    x_t = level.signal * x_0 + level.sigma * eps
    best = np.asarray(jax.jit(oracle.denoiser)(x_t, level).eps)

    def mean_square(x):
        return np.sum(weight * x[:, 0] ** 2)

    for change in CHANGES:
        d = change(x_t)
        sum_of_squares = mean_square(eps - best) + mean_square(d)
        np.testing.assert_allclose(mean_square(eps - (best + d)), sum_of_squares, rtol=1e-6)


@pytest.mark.parametrize(("t", "s"), [(1, 0), (2, 1), (400, 399), (1000, 250), (700, 0)])
def test_the_reverse_mean_in_terms_of_the_noise(t, s):
    """`mu = (x_t - beta / sqrt(1 - alpha_bar_t) eps) / sqrt(1 - beta)` (Ho et al. 2020, eq. 11), for any s < t."""
    transition = pick(SCHEDULE.transitions([t, s]), 0)
    beta = 1 - SCHEDULE.alpha_bar[t] / SCHEDULE.alpha_bar[s]
    x_t, eps = X_0, EPS
    expected = (x_t - beta / np.sqrt(1 - SCHEDULE.alpha_bar[t]) * eps) / np.sqrt(1 - beta)
    through_x_0, _ = q_posterior(x_0_from_eps(eps, x_t, transition.now), x_t, transition)
    np.testing.assert_allclose(through_x_0, expected, rtol=1e-9)
    prediction = Target.EPS.prediction(eps, x_t, transition.now)
    np.testing.assert_allclose(p_mean_log_var(prediction, x_t, transition, Variance.SMALL)[0], expected, rtol=1e-9)


@each("target", ALL_TARGETS)
@pytest.mark.parametrize("t", [300, [1, 30, 500, 1000]], ids=["one level", "a level an image"])
def test_a_network_gets_the_index_before_its_time_and_its_label(target, t):
    label, level = np.array([3, 1, 4, 1]), SCHEDULE.level(t)

    def network(variables, x_t, index, label):
        assert index.shape == (4,)
        assert index.dtype == jnp.float32
        return variables["scale"] * x_t + (10 * index + label)[:, None, None, None]

    output = 0.5 * target.network_input(X_0, level) + (10 * (np.broadcast_to(t, 4) - 1) + label)[:, None, None, None]
    prediction = as_denoiser(network, {"scale": 0.5}, target, label=label)(X_0, level)
    assert prediction.var_frac is None
    np.testing.assert_allclose(target.of(prediction.x_0, prediction.eps, level), output, rtol=1e-9)


@each("target", ALL_TARGETS)
def test_a_variance_head_is_the_second_half_of_the_channels(target):
    level = SCHEDULE.level([1, 30, 500, 1000])
    output, raw_var = EPS, np.linspace(-1, 1, EPS.size).reshape(EPS.shape)
    network = lambda variables, x_t, index, label: jnp.concatenate([output, raw_var], axis=-1)
    prediction = as_denoiser(network, {}, target, learned_variance=True)(X_0, level)
    plain = target.prediction(output, X_0, level)
    np.testing.assert_array_equal(prediction.x_0, plain.x_0)
    np.testing.assert_array_equal(prediction.eps, plain.eps)
    np.testing.assert_allclose(prediction.var_frac, np.linspace(0, 1, EPS.size).reshape(EPS.shape), atol=1e-12)


def test_oracles_are_networks_of_every_target():
    """A network that outputs the exact value of its target is the exact denoiser."""
    level = SCHEDULE.level(300)
    for oracle, target in itertools.product((GAUSSIAN, MIXTURE), Target):
        x_t = normal(5, oracle.mean.size)
        exact = oracle.denoiser(x_t, level)
        network = lambda variables, x, index, label, o=exact, y=target: y.of(o.x_0, o.eps, level)
        prediction = as_denoiser(network, {}, target)(x_t, level)
        np.testing.assert_allclose(prediction.x_0, exact.x_0, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(prediction.eps, exact.eps, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [1, 300.5, 1000])
def test_a_network_of_edm_is_the_denoiser_of_the_same_distribution(t):
    """`D(x, sigma) = E[x_0 given x = x_0 + sigma eps]` of a Gaussian."""
    level = SCHEDULE.level(t)
    mean, cov = np.array([0.6, -0.2]), np.array([[0.5, 0.2], [0.2, 0.3]])

    def network(x, sigma):
        gain = lambda s: cov @ jnp.linalg.inv(cov + s**2 * jnp.eye(2))
        return mean + jnp.einsum("bij,bj->bi", jax.vmap(gain)(sigma), x - mean)

    x_t = jnp.asarray(normal(5, 2))
    prediction, exact = edm_denoiser(network)(x_t, level), Gaussian(mean, cov).denoiser(x_t, level)
    np.testing.assert_allclose(prediction.x_0, exact.x_0, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(prediction.eps, eps_from_x_0(exact.x_0, x_t, level), rtol=1e-7, atol=1e-9)

"""Row 12 of the lecture: the two algorithms, whose lines are asserted with the project's functions on Gaussian data.

Training is regression: its loss splits into the error of the network and a rest that no network can remove. Sampling
takes the mean of row 8; with a straight line as network a chain of numbers stays Gaussian, so its moments are followed.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.losses import l_simple
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import Variance, p_mean_log_var, p_sample
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(20, beta_start=1e-3, beta_end=0.3)
STEPS = SCHEDULE.transitions()
TIMES = np.array([20, 11, 4, 1])
STEP = pick(STEPS, 20 - TIMES)
MEAN, VAR = 0.4, 0.3
DATA = Gaussian([MEAN], [[VAR]])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(4)
PAIRS = np.array(list(itertools.product(NODES, repeat=2)))  # of x_0 and eps
SHARES = np.prod(list(itertools.product(WEIGHTS / WEIGHTS.sum(), repeat=2)), axis=1)


def line(w, x_t):
    """The network: a straight line."""
    return w[0] * x_t + w[1]


def pairs(t):
    """Questions x_t and answers eps at time t, with the weights SHARES."""
    a, eps = SCHEDULE.alpha_bar[t], PAIRS[:, 1]
    return np.sqrt(a) * (MEAN + np.sqrt(VAR) * PAIRS[:, 0]) + np.sqrt(1 - a) * eps, eps


def coefficients(variance, t):
    """Slope, offset and variance of p(x_{t-1} | x_t) with the best network, from the project."""
    step, x = pick(STEPS, 20 - t), jnp.array([[0.0], [1.0]])
    mean, log_var = p_mean_log_var(DATA.denoiser(x, step.now), x, step, variance)
    return float(mean[1, 0] - mean[0, 0]), float(mean[0, 0]), float(np.exp(log_var).ravel()[0])


def test_12_1_a_question_is_made_in_one_step():
    """The argument of line 5, x_t from x_0 and eps, against t single noising steps with the noises that sum to eps."""
    t, x_0 = 11, normal(5)
    x, total = x_0.copy(), 0.0
    for s in range(1, t + 1):
        z = normal(5, seed=s)
        x = np.sqrt(1 - SCHEDULE.beta[s - 1]) * x + np.sqrt(SCHEDULE.beta[s - 1]) * z
        total = np.sqrt(1 - SCHEDULE.beta[s - 1]) * total + np.sqrt(SCHEDULE.beta[s - 1]) * z
    eps = total / np.sqrt(1 - SCHEDULE.alpha_bar[t])
    np.testing.assert_allclose(q_sample(x_0, eps, SCHEDULE.level(t)), x, rtol=1e-9)


def test_12_2_the_step_follows_the_gradient_of_l_simple_on_average():
    """The mean over t, x_0 and eps of the gradient of one draw, against the slope of the mean loss in closed form."""
    w = np.array([0.7, -0.2])
    each, slope, offset = [], 0.0, 0.0
    for t in range(1, 21):
        x_t, eps = pairs(t)
        gradient = jax.vmap(jax.grad(lambda w, x, e: (e - line(w, x)) ** 2), (None, 0, 0))(w, x_t, eps)
        each.append(SHARES @ gradient)
        a = SCHEDULE.alpha_bar[t]
        mean, var, shared = np.sqrt(a) * MEAN, a * VAR + 1 - a, np.sqrt(1 - a)
        slope += 2 * (w[0] * (var + mean**2) + w[1] * mean - shared) / 20
        offset += 2 * (w[0] * mean + w[1]) / 20
    np.testing.assert_allclose(np.mean(each, axis=0), [slope, offset], rtol=1e-8)


def test_12_3_the_loss_is_the_networks_error_and_what_no_network_removes():
    w = np.array([0.7, -0.2])
    for t in TIMES:
        x_t, eps = pairs(t)
        best = np.asarray(DATA.denoiser(x_t[:, None], SCHEDULE.level(t)).eps)[:, 0]
        a = SCHEDULE.alpha_bar[t]
        rest = a * VAR / (a * VAR + 1 - a)  # the variance of eps given x_t
        error = SHARES @ (best - line(w, x_t)) ** 2
        np.testing.assert_allclose(SHARES @ (eps - line(w, x_t)) ** 2, error + rest, rtol=1e-8)


def test_12_4_the_loss_of_a_draw_is_line_5_of_algorithm_1():
    """The project's loss, whose norm is a mean over three pixels."""
    w, x_0 = np.array([0.7, -0.2]), normal(4, 3)

    def denoise(x_t, level):
        eps = line(w, x_t)
        signal, sigma = (jnp.reshape(a, (-1, 1)) for a in (level.signal, level.sigma))
        return Prediction((x_t - sigma * eps) / signal, eps)

    a, eps = SCHEDULE.alpha_bar[TIMES, None], np.asarray(noise_like(keys(4), x_0))
    question = np.sqrt(a) * x_0 + np.sqrt(1 - a) * eps
    norms = np.sum((eps - (0.7 * question - 0.2)) ** 2, axis=1)
    np.testing.assert_allclose(3 * l_simple()(denoise, x_0, keys(4), STEP)["loss"], norms, rtol=1e-8)


@pytest.mark.parametrize("t", [20, 11, 4, 2])
def test_12_5_a_sampling_step_is_line_4_of_algorithm_2(t):
    """With sigma_t squared beta_t and noise z of the same keys."""
    step, x_t = pick(STEPS, 20 - t), normal(6, 1)
    drawn = p_sample(DATA.denoiser, keys(6), x_t=jnp.asarray(x_t), transition=step, variance=Variance.LARGE)
    alpha, a = 1 - SCHEDULE.beta[t - 1], SCHEDULE.alpha_bar[t]
    eps = np.sqrt(1 - a) * (x_t - np.sqrt(a) * MEAN) / (a * VAR + 1 - a)
    mean = (x_t - (1 - alpha) / np.sqrt(1 - a) * eps) / np.sqrt(alpha)
    z = np.asarray(noise_like(keys(6), x_t))
    np.testing.assert_allclose(drawn, mean + np.sqrt(1 - alpha) * z, rtol=1e-8)


def test_12_6_the_last_step_returns_the_estimate_of_x_0():
    """Its mean is the estimate, since `beta_1 = 1 - alpha_bar_1`, and no noise is added."""
    x_1 = normal(6, 1)
    step = pick(STEPS, 19)
    drawn = p_sample(DATA.denoiser, keys(6), x_t=jnp.asarray(x_1), transition=step, variance=Variance.LARGE)
    beta, a = SCHEDULE.beta[0], SCHEDULE.alpha_bar[1]
    eps = np.sqrt(1 - a) * (x_1 - np.sqrt(a) * MEAN) / (a * VAR + 1 - a)
    np.testing.assert_allclose((x_1 - beta / np.sqrt(1 - a) * eps) / np.sqrt(1 - beta), drawn, rtol=1e-8)
    np.testing.assert_allclose((x_1 - np.sqrt(1 - a) * eps) / np.sqrt(a), drawn, rtol=1e-8)


def test_12_7_a_step_keeps_the_mean_and_has_this_variance():
    """From x_t ~ q(x_t), drawn by nodes, for both variances."""
    for t, variance in itertools.product((20, 11, 2), (Variance.SMALL, Variance.LARGE)):
        slope, offset, added = coefficients(variance, t)
        s, a = SCHEDULE.alpha_bar[t - 1], SCHEDULE.alpha_bar[t]
        var_s, var_t = s * VAR + 1 - s, a * VAR + 1 - a
        x_t = np.sqrt(a) * MEAN + np.sqrt(var_t) * PAIRS[:, 0]
        drawn = slope * x_t + offset + np.sqrt(added) * PAIRS[:, 1]
        np.testing.assert_allclose(SHARES @ drawn, np.sqrt(s) * MEAN, rtol=1e-8)
        moment = SHARES @ drawn**2 - (SHARES @ drawn) ** 2
        true = SCHEDULE.beta[t - 1] * var_s / var_t
        np.testing.assert_allclose(moment, var_s + added - true, rtol=1e-8)

"""The reverse SDE: Euler-Maruyama is its formula, and where ancestral sampling goes when moves become small."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import GAUSSIAN, MIXTURE, each, keys, normal, pick
from support.measures import assert_drawn_from, order

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.prediction import score
from ddpm_jax.diffusion.samplers import Variance, ancestral, euler_maruyama, sample
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
X = normal(6, 2)
ANCESTRAL = {"small": ancestral(Variance.SMALL), "large": ancestral(Variance.LARGE)}


def moments(sampler, transition):
    """Mean `[B, D]` and standard deviation of a move from X, told apart by two draws of known noise."""
    state = sampler.init(jnp.asarray(X))
    one, two = (sampler.step(MIXTURE.denoiser, keys(6, seed), state, transition)[0].x for seed in (0, 1))
    z_one, z_two = (noise_like(keys(6, seed), X) for seed in (0, 1))
    std = (one - two) / (z_one - z_two)
    return np.asarray(one - std * z_one), np.asarray(std)


def test_euler_maruyama_is_a_step_of_andersons_reverse_sde():
    """`x + (x/2 + score) b + sqrt(b) z` with b the integral of beta: `alpha_bar_t = alpha_bar_s exp(-b)`."""
    transition = pick(SCHEDULE.transitions([700, 640, 0]), 0)
    b = -np.log(SCHEDULE.alpha_bar[700] / SCHEDULE.alpha_bar[640])
    slope = jax.grad(lambda x: jnp.sum(MIXTURE.log_prob(x, transition.now)))(jnp.asarray(X))
    mean, std = moments(euler_maruyama(), transition)
    np.testing.assert_allclose(mean, X + b * (X / 2 + slope), rtol=1e-8)
    np.testing.assert_allclose(std, np.sqrt(b), rtol=1e-8)


def test_euler_maruyama_adds_no_noise_to_the_last_move():
    transition = pick(SCHEDULE.transitions([3, 0]), 0)
    mean, std = moments(euler_maruyama(), transition)
    prediction, b = MIXTURE.denoiser(jnp.asarray(X), transition.now), -np.log(SCHEDULE.alpha_bar[3])
    np.testing.assert_allclose(std, 0, atol=1e-12)
    np.testing.assert_allclose(mean, X + b * (X / 2 + score(prediction, transition.now)), rtol=1e-9)


@each("sampler", ANCESTRAL)
@pytest.mark.parametrize("t", [30.0, 500.0, 990.0])
def test_the_limit_of_the_ancestral_step_is_euler_maruyamas(sampler, t):
    """Halving the move quarters the difference of the means, and that of the variances: both are O(beta**2)."""
    moves = [pick(SCHEDULE.transitions([t, t - h]), 0) for h in (0.4, 0.2, 0.1, 0.05)]
    betas = [move.beta for move in moves]
    means, variances = [], []
    for move in moves:
        (ours, std), (theirs, other_std) = moments(euler_maruyama(), move), moments(sampler, move)
        means.append(np.abs(ours - theirs).max())
        variances.append(np.abs(std**2 - other_std**2).max())
    assert order(betas, means) == pytest.approx(2, abs=0.05)
    assert order(betas, variances) == pytest.approx(2, abs=0.05)


def test_chains_of_the_same_noise_come_together_as_moves_become_small():
    """Whole chains differ by O(beta), one order less than a move."""
    differences, steps = [], [50, 100, 200]
    for num_steps in steps:
        schedule = linear(num_steps, beta_start=1e-3 * 50 / num_steps, beta_end=0.1 * 50 / num_steps)
        draws = [
            jax.jit(partial(sample, sampler, GAUSSIAN.denoiser, keys(50), transitions=schedule.transitions()))
            for sampler in (ANCESTRAL["large"], euler_maruyama())
        ]
        ends = [draw(x_T=normal(50, 3)) for draw in draws]
        differences.append(np.sqrt(np.mean((ends[0] - ends[1]) ** 2)))
    assert order(steps, differences) < -0.8


@each("sampler", {**ANCESTRAL, "euler_maruyama": euler_maruyama()})
def test_stochastic_chains_reach_the_mixture(sampler):
    schedule, num = cosine(1000), 2000
    transitions = schedule.transitions(timesteps.log_snr(schedule, 300))
    draw = jax.jit(lambda x_T: sample(sampler, MIXTURE.denoiser, keys(num), x_T=x_T, transitions=transitions))
    assert_drawn_from(MIXTURE, draw(normal(num, 2, seed=1)))

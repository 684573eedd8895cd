"""Langevin dynamics: a noising step is one on the standard normal, and its own stationary law is known exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, keys, normal, pick
from support.measures import assert_drawn_from, order

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_step
from ddpm_jax.diffusion.prediction import score
from ddpm_jax.diffusion.samplers import (
    Sampler,
    SamplerState,
    StepInfo,
    Variance,
    ancestral,
    annealed_langevin,
    ddim,
    langevin_corrector,
    langevin_step,
    sample,
)
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
STAY = Sampler(SamplerState, lambda denoise, keys, state, transition: (state, StepInfo(state.x)))


def test_a_step_climbs_half_of_delta_and_shakes_by_its_root():
    x, slope, delta = normal(5, 3), normal(5, 3, seed=1), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    expected = x + delta[:, None] / 2 * slope + np.sqrt(delta)[:, None] * noise_like(keys(5), x)
    np.testing.assert_allclose(langevin_step(x, slope, keys(5), delta=delta), expected, rtol=1e-12)
    one = langevin_step(x, slope, keys(5), delta=0.3)
    np.testing.assert_allclose(one[2], expected[2], rtol=1e-12)


def test_a_noising_step_is_a_langevin_step_on_the_standard_normal():
    """`sqrt(1 - beta) x + sqrt(beta) z` and `x + beta/2 (-x) + sqrt(beta) z` with the same z: O(beta**2) apart."""
    x, eps = normal(50, 3), noise_like(keys(50), np.zeros((50, 3)))
    transition = pick(SCHEDULE.transitions([2, 1]), 0)
    betas, differences = [0.2, 0.1, 0.05, 0.025], []
    for beta in betas:
        noised = q_step(x, eps, transition._replace(beta=beta))
        differences.append(np.abs(noised - langevin_step(x, -x, keys(50), delta=beta)).max())
    assert order(betas, differences) == pytest.approx(2, abs=0.1)
    np.testing.assert_allclose(differences[-1], np.abs(x).max() * 0.025**2 / 8, rtol=0.05)


def test_many_langevin_steps_are_the_forward_process():
    """The law of x after N steps in all tends to the closed form: mean and variance differ by O(1 / N)."""
    total, steps, errors = 1.0, [25, 50, 100, 200], []
    for num_steps in steps:
        # Mean and variance of an affine step, read off its values at x = 0 and 1 with two draws of known noise.
        at = [jnp.full((2, 1), x) for x in (0.0, 1.0)]
        ends = [langevin_step(x, -x, keys(2), delta=total / num_steps) for x in at]
        gain, noise = np.asarray(ends[1] - ends[0])[0, 0], np.asarray(ends[0] / noise_like(keys(2), ends[0]))
        np.testing.assert_allclose(noise, noise[0, 0], rtol=1e-12)
        mean, var = 2.0, 0.25
        for _ in range(num_steps):
            mean, var = gain * mean, gain**2 * var + noise[0, 0] ** 2
        # exp(-total) is what alpha_bar tends to: x_0 of mean 2 and variance 1/4, noised.
        alpha_bar = (1 - total / num_steps) ** num_steps
        exact = np.sqrt(alpha_bar) * 2.0, alpha_bar * 0.25 + 1 - alpha_bar
        errors.append(np.hypot(mean - exact[0], var - exact[1]))
    assert order(steps, errors) == pytest.approx(-1, abs=0.1)


def test_independent_noises_add_by_their_variances():
    """`N(0, s1**2) + N(0, s2**2) = N(0, s1**2 + s2**2)`: by characteristic functions, and in two noising steps."""
    s_1, s_2, u = 0.6, 0.8, np.linspace(-3, 3, 7)
    num = 400_000
    one, two = (np.asarray(noise_like(jax.random.key(seed), np.zeros(num))) for seed in (0, 1))
    drawn = np.mean(np.cos(np.outer(u, s_1 * one + s_2 * two)), axis=1)
    np.testing.assert_allclose(drawn, np.exp(-(u**2) * (s_1**2 + s_2**2) / 2), atol=5 / np.sqrt(2 * num))
    both, first, second = (pick(SCHEDULE.transitions(times), 0) for times in ([9, 2], [5, 2], [9, 5]))
    x = np.array([[0.7]])
    response = [np.asarray(q_step(q_step(x, a, first), b, second) - q_step(q_step(x, 0 * x, first), 0 * x, second))
                for a, b in ((1 + 0 * x, 0 * x), (0 * x, 1 + 0 * x))]  # fmt: skip
    np.testing.assert_allclose(response[0] ** 2 + response[1] ** 2, [[both.beta]], rtol=1e-12)


@pytest.mark.parametrize("delta", [0.1, 0.5])
def test_the_stationary_variance_is_that_of_the_discrete_walk(delta):
    """`var = 1 / (1 - delta / 4)` for N(0, 1), in general `c / (1 - delta / (4 c))` along an eigenvector."""
    num, steps = 4000, 60

    @jax.jit
    def walk(x):
        def body(i, x):
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys(num), i)
            return langevin_step(x, -x / jnp.array([1.0, 0.25]), step_keys, delta=delta)

        return jax.lax.fori_loop(0, steps, body, x)

    c = np.array([1.0, 0.25])
    exact = c / (1 - delta / (4 * c))
    x = walk(jnp.sqrt(exact) * normal(num, 2))
    np.testing.assert_allclose(np.var(x, axis=0), exact, rtol=5 * np.sqrt(2 / num))
    # And exactly: one step's gain and noise keep this variance.
    ends = [langevin_step(jnp.full((1, 2), v), -jnp.full((1, 2), v) / c, keys(1), delta=delta) for v in (0.0, 1.0)]
    gain, noise = ends[1] - ends[0], ends[0] / noise_like(keys(1), ends[0])
    np.testing.assert_allclose((gain**2 * exact + noise**2)[0], exact, rtol=1e-9)


@pytest.mark.parametrize("t", [999.0, 500.0, 20.0])
def test_the_corrector_keeps_the_exact_marginal(t):
    """From exact draws, however many steps, mean and covariance stay the mixture's at that level."""
    num, transition = 4000, pick(SCHEDULE.transitions([t + 1, t, 0]), 0)
    level = transition.next
    eps = normal(num, 2, seed=2)
    x_t = level.signal * MIXTURE.sample(jax.random.key(0), num) + level.sigma * eps
    corrector = langevin_corrector(STAY, num_steps=20)
    x = np.asarray(
        jax.jit(lambda x: corrector.step(MIXTURE.denoiser, keys(num), SamplerState(x), transition)[0].x)(x_t)
    )
    assert np.abs(x - x_t).mean() > 0.3 * level.sigma  # it went somewhere
    mean = level.signal * MIXTURE.mean
    cov = level.signal**2 * MIXTURE.covariance + level.sigma**2 * np.eye(2)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * np.sqrt(cov.max() / num))
    bias = 0.16**2 * level.sigma**2  # delta / 4, of the discrete walk
    np.testing.assert_allclose(np.cov(x.T), cov, atol=5 * cov.max() * np.sqrt(2 / num) + bias)


def test_the_corrector_is_langevin_steps_of_its_size():
    """`delta = 4 (1 - beta) (snr sigma)**2` at the new level, by hand, after a predictor with a key of its own."""
    transition = pick(SCHEDULE.transitions([700, 500, 0]), 0)
    level, x_t, image_keys = transition.next, normal(5, 2), keys(5)
    halves = jax.vmap(jax.random.split)(image_keys)
    x = ancestral(Variance.SMALL).step(MIXTURE.denoiser, halves[:, 0], SamplerState(jnp.asarray(x_t)), transition)[0].x
    delta = 4 * (SCHEDULE.alpha_bar[700] / SCHEDULE.alpha_bar[500]) * 0.3**2 * (1 - SCHEDULE.alpha_bar[500])
    for i in range(2):
        z = noise_like(jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(halves[:, 1]), x_t)
        x = x + delta / 2 * score(MIXTURE.denoiser(x, level), level) + np.sqrt(delta) * z
    corrector = langevin_corrector(ancestral(Variance.SMALL), snr=0.3, num_steps=2)
    ours = corrector.step(MIXTURE.denoiser, image_keys, corrector.init(jnp.asarray(x_t)), transition)[0].x
    np.testing.assert_allclose(ours, x, rtol=1e-9)


def test_the_corrector_leaves_clean_images_alone():
    transition, x_t = pick(SCHEDULE.transitions([7, 0]), 0), jnp.asarray(normal(5, 2))
    for predictor in (STAY, ddim()):
        corrector = langevin_corrector(predictor, num_steps=3)
        ours = corrector.step(MIXTURE.denoiser, keys(5), corrector.init(x_t), transition)[0].x
        alone = predictor.step(MIXTURE.denoiser, keys(5), SamplerState(x_t), transition)[0].x
        np.testing.assert_array_equal(ours, alone)


def test_annealed_langevin_walks_at_a_level_and_moves_to_the_next():
    x_t, level = jnp.asarray(normal(5, 2)), SCHEDULE.level(300)
    walked = x_t
    for i in range(2):
        step_keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys(5))
        slope = score(MIXTURE.denoiser(walked, level), level)
        walked = langevin_step(walked, slope, step_keys, delta=0.2 * level.sigma**2)
    sampler = annealed_langevin(step_size=0.2, num_steps=2)
    for times, expected in (
        ([300, 200, 0], SCHEDULE.level(200).signal / level.signal * walked),
        ([300, 0], MIXTURE.denoiser(walked, level).x_0),
    ):
        transition = pick(SCHEDULE.transitions(times), 0)
        x = sampler.step(MIXTURE.denoiser, keys(5), sampler.init(x_t), transition)[0].x
        np.testing.assert_allclose(x, expected, rtol=1e-9)


SAMPLERS = {
    "around ancestral": langevin_corrector(ancestral(Variance.SMALL)),
    "around ddim": langevin_corrector(ddim()),
    "annealed": annealed_langevin(num_steps=6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_langevin_chains_reach_the_mixture(name):
    schedule, num = cosine(1000), 2000
    transitions = schedule.transitions(timesteps.log_snr(schedule, 300))
    draw = jax.jit(partial(sample, SAMPLERS[name], MIXTURE.denoiser, transitions=transitions))
    assert_drawn_from(MIXTURE, draw(keys(num), x_T=normal(num, 2, seed=1)))

"""Every sampler against exact denoisers: the chain as algebra, as a plain loop, and as draws that have to be right.

With Gaussian data every reverse step is affine, so mean and covariance of a chain are computed without sampling.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_SAMPLERS, ALL_SCHEDULES, GAUSSIAN, IMAGES, MIXTURE, each, keys, normal, pick

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.prediction import Target
from ddpm_jax.diffusion.samplers import (
    Variance,
    advance,
    ancestral,
    ddim_inverse,
    heun,
    langevin_corrector,
    p_mean_log_var,
    p_sample,
    repaint,
    sample,
)
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
FEW = SCHEDULE.transitions(timesteps.uniform(SCHEDULE, 8))
CHAINS = {"all": None, "respaced": [40, 33, 32, 20, 11, 3, 1, 0], "to the end at once": [40, 17, 0]}
VARIANCES = {variance.value: variance for variance in (Variance.SMALL, Variance.LARGE, Variance.LEARNED)}


def affine_steps(oracle, transitions, variance):
    """The reverse steps `x_s = a x_t + b + sqrt(var) z` with a Gaussian's denoiser: a `[N, D, D]`, b `[N, D]`, var."""
    x_t = jnp.concatenate([jnp.zeros((1, oracle.mean.size)), jnp.eye(oracle.mean.size)])

    def step(transition):
        mean, log_var = p_mean_log_var(oracle.denoiser(x_t, transition.now), x_t, transition, variance)
        return (mean[1:] - mean[0]).T, mean[0], jnp.where(transition.next.t > 0, jnp.exp(log_var), 0)

    return [np.asarray(leaf) for leaf in jax.vmap(step)(transitions)]


def noised_moments(oracle, level):
    """Mean and covariance of the oracle's noisy images."""
    return level.signal * oracle.mean, level.signal**2 * oracle.covariance + level.sigma**2 * np.eye(oracle.mean.size)


def chain_moments(oracle, transitions, variance):
    """Mean and covariance after every step, from noisy images that are exactly right: `[N, D]`, `[N, D, D]`."""
    mean, cov = noised_moments(oracle, pick(transitions.now, 0))
    moments = []
    for a, b, var in zip(*affine_steps(oracle, transitions, variance), strict=True):
        mean, cov = a @ mean + b, a @ cov @ a.T + var * np.eye(len(mean))
        moments.append((mean, cov))
    return [np.array(leaf) for leaf in zip(*moments, strict=True)]


@each("schedule", ALL_SCHEDULES)
@each("timesteps", CHAINS)
def test_every_reverse_step_obeys_the_laws_of_total_mean_and_variance(schedule, timesteps):
    """`q(x_s) = E q(x_s | x_t, x_0)`: what one step lacks is exactly the posterior covariance of x_0."""
    transitions = schedule(40).transitions(timesteps)
    steps = zip(*affine_steps(GAUSSIAN, transitions, Variance.SMALL), strict=True)
    for i, (a, b, var) in enumerate(steps):
        now, next = pick(transitions.now, i), pick(transitions.next, i)
        mean_t, cov_t = noised_moments(GAUSSIAN, now)
        mean_s, cov_s = noised_moments(GAUSSIAN, next)
        gain = now.signal * GAUSSIAN.covariance @ np.linalg.inv(cov_t)
        cov_x_0 = GAUSSIAN.covariance - now.signal * gain @ GAUSSIAN.covariance
        weight = next.signal * transitions.beta[i] / now.sigma**2
        np.testing.assert_allclose(a @ mean_t + b, mean_s, rtol=1e-9)
        np.testing.assert_allclose(a @ cov_t @ a.T + var * np.eye(3) + weight**2 * cov_x_0, cov_s, rtol=1e-9)


@each("timesteps", CHAINS)
def test_small_variance_is_exact_for_data_at_a_point(timesteps):
    point = Gaussian([0.6, -0.2], np.zeros((2, 2)))
    transitions = linear(40).transitions(timesteps)
    mean, cov = chain_moments(point, transitions, Variance.SMALL)
    for i in range(len(mean)):
        expected_mean, expected_cov = noised_moments(point, pick(transitions.next, i))
        np.testing.assert_allclose(mean[i], expected_mean, rtol=1e-9)
        np.testing.assert_allclose(cov[i], expected_cov, rtol=1e-9, atol=1e-12)


@each("timesteps", CHAINS)
def test_large_variance_is_exact_for_standard_normal_data(timesteps):
    transitions = linear(40).transitions(timesteps)
    mean, cov = chain_moments(Gaussian([0.0, 0.0], np.eye(2)), transitions, Variance.LARGE)
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(cov[:-1], np.broadcast_to(np.eye(2), cov[:-1].shape), rtol=1e-9, atol=1e-12)
    # Without noise in the last step its variance is missing.
    np.testing.assert_allclose(cov[-1], (1 - transitions.beta[-1]) * np.eye(2), rtol=1e-9, atol=1e-12)


def test_a_thousand_steps_have_the_datas_mean_and_nearly_its_covariance():
    transitions = SCHEDULE.transitions()
    (mean, small), (_, large) = (
        chain_moments(GAUSSIAN, transitions, variance) for variance in (Variance.SMALL, Variance.LARGE)
    )
    np.testing.assert_allclose(mean[-1], GAUSSIAN.mean, rtol=1e-9)
    for i in range(0, 999, 37):
        exact = noised_moments(GAUSSIAN, pick(transitions.next, i))[1]
        assert np.linalg.eigvalsh(exact - small[i]).min() > 0
        assert np.linalg.eigvalsh(large[i] - exact).min() > 0
    np.testing.assert_allclose(small[-1], GAUSSIAN.covariance, rtol=0.02)
    np.testing.assert_allclose(large[-1], GAUSSIAN.covariance, rtol=0.02)


def with_variance_head(oracle):
    """The oracle's denoiser, with a different fraction of the way to the large variance for every image."""

    def denoise(x_t, level):
        return oracle.denoiser(x_t, level)._replace(var_frac=jnp.linspace(0.1, 0.7, len(x_t))[:, None])

    return denoise


def chosen(variance, small, large, num):
    """The log variance `[num, 1]` that `variance` stands for between two of them, with `with_variance_head`."""
    low, high = {Variance.SMALL: (0, 0), Variance.LARGE: (1, 1), Variance.LEARNED: (0.1, 0.7)}[variance]
    fraction = np.linspace(low, high, num)
    return (fraction * large + (1 - fraction) * small)[:, None]


@each("variance", VARIANCES)
def test_ancestral_is_the_papers_algorithm_2(variance):
    """`x_s = (x_t - beta / sqrt(1 - alpha_bar_t) eps) / sqrt(1 - beta) + sigma_t z`, z = 0 at the end, in NumPy."""
    schedule, x_T, image_keys = linear(10, beta_end=0.3), normal(5, 2), keys(5)
    alpha_bar, x = schedule.alpha_bar, x_T
    for index, t in enumerate(range(10, 0, -1)):
        beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
        small = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta
        eps = np.asarray(MIXTURE.denoiser(jnp.asarray(x), schedule.level(t)).eps)
        z = noise_like(jax.vmap(lambda key, i=index: jax.random.fold_in(key, i))(image_keys), x) if t > 1 else 0
        x = (x - beta / np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(1 - beta)
        x = x + (np.exp(chosen(variance, np.log(small), np.log(beta), 5) / 2) * np.asarray(z) if t > 1 else 0)
    denoise = with_variance_head(MIXTURE)
    ours = sample(ancestral(variance), denoise, image_keys, x_T=x_T, transitions=schedule.transitions())
    np.testing.assert_allclose(ours, x, rtol=1e-9)


@each("variance", VARIANCES)
def test_p_sample_adds_noise_of_the_variance_except_at_the_end(variance):
    x_t, image_keys = normal(3, 2), keys(3)
    moves = SCHEDULE.transitions([700, 300, 20, 0])
    last_three = pick(moves, np.array([1, 2, 2]))
    denoise = with_variance_head(MIXTURE)
    mean, log_var = p_mean_log_var(denoise(x_t, last_three.now), x_t, last_three, variance)
    x_s = p_sample(denoise, image_keys, x_t=x_t, transition=last_three, variance=variance)
    large = np.copy(last_three.log_var_large)
    if variance is Variance.LARGE:  # the decoder's, as in Ho et al.'s code
        large[1:] = last_three.log_var_small[1:]
    expected = chosen(variance, last_three.log_var_small, large, 3)
    np.testing.assert_allclose(log_var, expected, rtol=1e-12)
    np.testing.assert_array_equal(x_s[1:], mean[1:])
    np.testing.assert_allclose(x_s[0], (mean + jnp.exp(log_var / 2) * noise_like(image_keys, x_t))[0], rtol=1e-12)


def test_a_learned_variance_needs_a_variance_head():
    with pytest.raises(ValueError, match="variance head"):
        p_mean_log_var(MIXTURE.denoiser(normal(3, 2), pick(FEW.now, 0)), normal(3, 2), pick(FEW, 0), Variance.LEARNED)


def some_denoiser(x_t, level):
    """Cheap to compile, and linear in nothing."""
    return Target.V.prediction(jnp.tanh(2 * x_t[:, ::-1]) - jnp.sin(level.t), x_t, level)


@cache
def compiled(sampler):
    """`(keys, x_T) -> [9, B, 2]`, the trajectory of eight moves."""
    draw = partial(sample, sampler, some_denoiser, transitions=FEW, trajectory=True)
    return jax.jit(lambda image_keys, x_T: draw(image_keys, x_T=x_T))


X_T = normal(5, 2)


@each("sampler", ALL_SAMPLERS)
def test_the_scan_is_a_python_loop(sampler):
    trajectory = compiled(sampler)(keys(5), X_T)
    step = jax.jit(partial(sampler.step, some_denoiser))
    state = sampler.init(jnp.asarray(X_T))
    for i in range(8):
        move_keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys(5))
        state, _ = step(move_keys, state, pick(FEW, i))
        np.testing.assert_allclose(trajectory[i + 1], state.x, rtol=1e-9, atol=1e-12)


@each("sampler", ALL_SAMPLERS)
def test_a_chain_in_pieces_is_the_chain_bit_for_bit(sampler):
    piece = jax.jit(lambda *args, **options: advance(sampler, some_denoiser, *args, **options).state)
    state, moves = sampler.init(jnp.asarray(X_T)), (jnp.arange(8), FEW)
    for part in (slice(0, 4), slice(4, 8)):
        state = piece(keys(5), state=state, indexed=pick(moves, part))
    np.testing.assert_array_equal(state.x, compiled(sampler)(keys(5), X_T)[-1])


OTHERS = {
    "ddim_inverse": ddim_inverse(),
    "repaint": repaint(heun(), np.zeros(2), np.zeros(2)),
    "two corrections": langevin_corrector(heun(), num_steps=2),
}


@each("sampler", {**ALL_SAMPLERS, **OTHERS})
@pytest.mark.parametrize("end", [7, 8])
def test_the_info_is_the_estimate_at_the_start_and_the_number_of_evaluations(sampler, end):
    """Of the last two steps, of which the very last to s = 0 takes other evaluations in some samplers."""
    times = []

    def counted(x_t, level):
        jax.debug.callback(times.append, level.t)
        return some_denoiser(x_t, level)

    state, moves = sampler.init(jnp.asarray(X_T)), (jnp.arange(8), FEW)
    step = jax.jit(partial(advance, sampler, counted, indexed=pick(moves, slice(end - 1, end))))
    info = step(keys(5), state=state).info
    jax.effects_barrier()
    assert info.evaluations == len(times)
    estimate = some_denoiser(jnp.asarray(X_T), pick(FEW, end - 1).now).x_0
    np.testing.assert_allclose(info.x_0, estimate, rtol=1e-6)


@each("sampler", ALL_SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(sampler):
    """Two images, among other ones and in other places."""
    here, there = np.array([3, 1]), np.array([0, 3])
    other_keys, other_x_T = keys(5, seed=1).at[there].set(keys(5)[here]), normal(5, 2, seed=1)
    other_x_T[there] = X_T[here]
    moved = compiled(sampler)(other_keys, other_x_T)[:, there]
    np.testing.assert_allclose(moved, compiled(sampler)(keys(5), X_T)[:, here], rtol=1e-12)


def test_a_trajectory_leads_from_the_noise_to_the_sample():
    x_T, denoise = normal(4, 2), Gaussian([0.6, -0.2], np.zeros((2, 2))).denoiser
    draw = partial(sample, ancestral(Variance.LARGE), denoise, keys(4), x_T=x_T, transitions=FEW)
    trajectory = draw(trajectory=True)
    assert trajectory.shape == (9, 4, 2)
    np.testing.assert_array_equal(trajectory[0], x_T)
    np.testing.assert_allclose(trajectory[-1], draw(), rtol=1e-12)


@each("sampler", ALL_SAMPLERS)
def test_a_long_chain_draws_from_the_mixture(sampler):
    num = 2000
    draw = jax.jit(partial(sample, sampler, MIXTURE.denoiser))
    transitions = SCHEDULE.transitions(timesteps.uniform(SCHEDULE, 500))
    x = draw(keys(num), x_T=normal(num, 2, seed=1), transitions=transitions)
    deviation = np.sqrt(np.diag(MIXTURE.covariance))
    np.testing.assert_allclose(np.mean(x, axis=0), MIXTURE.mean, atol=5 * deviation.max() / np.sqrt(num))
    np.testing.assert_allclose(np.cov(x.T), MIXTURE.covariance, atol=0.02 + 5 * deviation.max() ** 2 / np.sqrt(num))
    weights = jnp.exp(MIXTURE.log_prob_label(x)).mean(axis=0)
    np.testing.assert_allclose(weights, MIXTURE.weights, atol=0.01 + 5 * np.sqrt(0.25 / num))
    log_prob = MIXTURE.log_prob(MIXTURE.sample(jax.random.key(0), num)).mean()
    np.testing.assert_allclose(MIXTURE.log_prob(x).mean(), log_prob, atol=0.2)


@each("sampler", ALL_SAMPLERS)
def test_with_finite_data_a_respaced_chain_ends_at_the_data(sampler):
    num, schedule = 300, cosine(200)
    draw = jax.jit(partial(sample, sampler, IMAGES.denoiser))
    transitions = schedule.transitions(timesteps.uniform(schedule, 60))
    x = draw(keys(num), x_T=normal(num, 4, 4, 1), transitions=transitions)
    distance = np.max(np.abs(np.asarray(x)[:, None] - IMAGES.points), axis=(2, 3, 4))
    assert np.all(distance.min(axis=1) < 1e-3)
    frequencies = np.bincount(distance.argmin(axis=1), minlength=3) / num
    np.testing.assert_allclose(frequencies, 1 / 3, atol=5 * np.sqrt(2 / 9 / num))

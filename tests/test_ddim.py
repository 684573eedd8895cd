"""DDIM between its two ends: ancestral sampling at eta = 1, Euler's method on the probability-flow ODE at eta = 0."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import GAUSSIAN, MIXTURE, keys, normal, pick
from support.measures import assert_drawn_from, order

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.samplers import Variance, advance, ancestral, ddim, ddim_inverse, ddim_step, sample
from ddpm_jax.diffusion.schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
SHORT = SCHEDULE.transitions(timesteps.uniform(SCHEDULE, 12))


def test_ddim_eta_one_is_ancestral():
    """With the same keys, move by move, on neighbouring and on distant times."""
    for transitions in (SHORT, SCHEDULE.transitions([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])):
        draw = partial(sample, denoise=MIXTURE.denoiser, keys=keys(5), x_T=normal(5, 2), transitions=transitions)
        ours, theirs = draw(ddim(1.0), trajectory=True), draw(ancestral(Variance.SMALL), trajectory=True)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12_of_its_paper(eta):
    """`sqrt(a_s) x_0 + sqrt(1 - a_s - var) eps + sqrt(var) z`, `var = eta**2 (1-a_s)/(1-a_t) (1 - a_t/a_s)`."""
    times, image_keys = [900, 500, 120, 7, 0], keys(5)
    x_T = x = normal(5, 2)
    a = SCHEDULE.alpha_bar
    for index, (t, s) in enumerate(pairwise(times)):
        eps = np.asarray(MIXTURE.denoiser(jnp.asarray(x), SCHEDULE.level(t)).eps)
        x_0 = (x - np.sqrt(1 - a[t]) * eps) / np.sqrt(a[t])
        var = eta**2 * (1 - a[s]) / (1 - a[t]) * (1 - a[t] / a[s])
        z = noise_like(jax.vmap(lambda key, i=index: jax.random.fold_in(key, i))(image_keys), x)
        x = np.sqrt(a[s]) * x_0 + np.sqrt(1 - a[s] - var) * eps + np.sqrt(var) * np.asarray(z)
    chain = SCHEDULE.transitions(times)
    ours = sample(ddim(eta), MIXTURE.denoiser, image_keys, x_T=x_T, transitions=chain)
    np.testing.assert_allclose(ours, x, rtol=1e-8)


@pytest.mark.parametrize("up", [False, True])
def test_ddim_eta_zero_is_eulers_method_on_the_ode(up):
    """`x_bar += (s_next - s) eps` with `x_bar = x / signal`, `s = sigma / signal`, downwards and upwards."""
    times = [800.0, 300.5, 41.25, 1.0]
    transitions = SCHEDULE.encoding(times) if up else SCHEDULE.transitions([*times, 0])
    x_start = normal(5, 2)
    x_bar = x_start / pick(transitions.now.signal, 0)
    for i in range(len(transitions.beta)):
        now, next = pick(transitions.now, i), pick(transitions.next, i)
        slope = np.asarray(MIXTURE.denoiser(jnp.asarray(x_bar * now.signal), now).eps)
        x_bar = x_bar + (next.sigma / next.signal - now.sigma / now.signal) * slope
    ours = sample(ddim(), MIXTURE.denoiser, keys(5), x_T=x_start, transitions=transitions)
    np.testing.assert_allclose(ours, x_bar * next.signal, rtol=1e-8)


def test_ddim_without_noise_ignores_its_keys():
    draw = partial(sample, ddim(), MIXTURE.denoiser, x_T=normal(5, 2), transitions=SHORT)
    np.testing.assert_array_equal(draw(keys(5)), draw(keys(5, seed=1)))


def test_eta_is_a_number_of_the_compiled_program():
    """One trace serves every eta, and each gives what a program made for it gives."""
    traces = []

    @jax.jit
    def draw(eta, x_T):
        traces.append(eta)
        return sample(ddim(eta), MIXTURE.denoiser, keys(5), x_T=x_T, transitions=SHORT)

    x_T = normal(5, 2)
    for eta in (0.0, 0.25, 1.0):
        fixed = sample(ddim(eta), MIXTURE.denoiser, keys(5), x_T=x_T, transitions=SHORT)
        np.testing.assert_allclose(draw(eta, x_T), fixed, rtol=1e-9)
    assert len(traces) == 1


def test_the_noise_of_a_step_has_eta_squared_times_the_posterior_variance():
    transition = pick(SHORT, 5)
    for eta in (0.2, 1.0):
        step = partial(ddim_step, MIXTURE.denoiser, x_t=normal(5, 2), transition=transition, eta=eta)
        difference = step(keys(5)) - step(keys(5, seed=1))
        z = noise_like(keys(5), np.zeros((5, 2))) - noise_like(keys(5, seed=1), np.zeros((5, 2)))
        np.testing.assert_allclose(difference / z, eta * np.exp(transition.log_var_small / 2), rtol=1e-9)


WALK = jax.jit(partial(sample, ddim(), GAUSSIAN.denoiser))


def decoded_error(num_steps, grid):
    """Relative error of a Gaussian's images at t = 1 that DDIM itself encoded to t = T and decoded again."""
    times, walk = grid(SCHEDULE, num_steps + 1)[:-1], partial(WALK, keys(50))
    x_1 = GAUSSIAN.sample(jax.random.key(0), 50)
    x_T = walk(x_T=x_1, transitions=SCHEDULE.encoding(times))
    assert len(SCHEDULE.encoding(times).beta) == num_steps
    return np.linalg.norm(walk(x_T=x_T, transitions=SCHEDULE.transitions(times)) - x_1) / np.linalg.norm(x_1)


def test_ddim_decodes_what_it_encoded_to_first_order():
    """Run upwards itself it leaves 2 % at 200 steps on its best grid; its inverse, below, leaves nothing."""
    steps = [50, 100, 200]
    errors = [decoded_error(n, timesteps.quadratic) for n in steps]
    assert order(steps, errors) == pytest.approx(-1, abs=0.15)
    assert errors[-1] < 0.02
    assert errors[-1] < decoded_error(200, timesteps.log_snr) < decoded_error(200, timesteps.karras)


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("grid", [timesteps.log_snr, timesteps.karras])
def test_ddim_decodes_what_its_inverse_encoded(data, grid):
    """Relative error below 1e-3 at 200 steps, the promise; every substitution takes its part of it."""
    times, x_1 = grid(SCHEDULE, 201)[:-1], data.sample(jax.random.key(0), 50)
    walk = jax.jit(partial(sample, denoise=data.denoiser, keys=keys(50)), static_argnames="sampler")

    def error(num_iterations):
        encode = ddim_inverse(num_iterations)
        x_T = walk(encode, x_T=x_1, transitions=SCHEDULE.encoding(times))
        decoded = walk(ddim(), x_T=x_T, transitions=SCHEDULE.transitions(times))
        return np.linalg.norm(decoded - x_1) / np.linalg.norm(x_1)

    errors = [error(n) for n in (0, 2, 4)]
    assert all(later < earlier / 10 for earlier, later in pairwise(errors))
    assert errors[0] > 1e-2 > 1e-3 > errors[1]


def test_the_inverse_takes_three_substitutions_a_move_unless_told_otherwise():
    """`x_bar_t = x_bar_s + (s_t - s_s) eps(x_t, t)`, where eps is that of x_s and then, thrice, of x_t."""
    upward = pick(SCHEDULE.encoding([900.0, 400.0]), slice(0, 1))
    now, next = pick(upward.now, 0), pick(upward.next, 0)
    x_s = normal(5, 2)
    x_bar, width = x_s / now.signal, next.sigma / next.signal - now.sigma / now.signal
    eps = np.asarray(MIXTURE.denoiser(jnp.asarray(x_s), now).eps)
    for _ in range(3):
        before = eps
        eps = np.asarray(MIXTURE.denoiser(jnp.asarray(next.signal * (x_bar + width * eps)), next).eps)
    assert np.linalg.norm(eps - before) > 1e-6 * np.linalg.norm(eps)  # so that one more or less would be seen
    ours = sample(ddim_inverse(), MIXTURE.denoiser, keys(5), x_T=x_s, transitions=upward)
    np.testing.assert_allclose(ours, next.signal * (x_bar + width * eps), rtol=1e-9)


def test_an_image_without_noise_cannot_be_encoded():
    with pytest.raises(ValueError, match="t = 1"):
        SCHEDULE.encoding(timesteps.log_snr(SCHEDULE, 10))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_reaches_the_mixture(eta):
    schedule, num = cosine(1000), 2000
    transitions = schedule.transitions(timesteps.log_snr(schedule, 300))
    draw = jax.jit(lambda x_T: sample(ddim(eta), MIXTURE.denoiser, keys(num), x_T=x_T, transitions=transitions))
    assert_drawn_from(MIXTURE, draw(normal(num, 2, seed=1)))


def test_a_chain_of_images_compiles_once_for_every_eta_and_seed():
    """`Chain`, what `sample.py` runs, takes eta as an input."""
    from ddpm_jax.runs.chain import Chain, CompiledChain
    from ddpm_jax.runtime.devices import device_mesh

    traces = []

    def sampler(settings):
        traces.append(settings)
        return ddim(settings["eta"])

    denoiser = lambda params, label, settings: MIXTURE.denoiser
    compiled_chain = CompiledChain(sampler, denoiser, transitions=SHORT, shape=(2,), mesh=device_mesh())
    images = []
    for eta in (0.0, 0.5):
        chain = Chain(compiled_chain, {"eta": eta})
        images += [chain((), jax.random.key(seed), indices=np.arange(8)) for seed in (0, 1)]
        if eta == 0:
            compiled = len(traces)
    assert len(traces) == compiled
    assert not np.allclose(images[0], images[2])


def test_moves_in_pieces_are_the_chain():
    x_T, moves = jnp.asarray(normal(5, 2)), (jnp.arange(12), SHORT)
    state = ddim(0.5).init(x_T)
    for part in (slice(0, 5), slice(5, 12)):
        given, (state, info, kept) = (
            state,
            advance(ddim(0.5), MIXTURE.denoiser, keys(5), state=state, indexed=pick(moves, part)),
        )
        assert kept is None
        estimate = MIXTURE.denoiser(given.x, pick(SHORT, part.start).now).x_0
        np.testing.assert_allclose(info.x_0, estimate, rtol=1e-12)
        assert info.evaluations == part.stop - part.start
    whole = sample(ddim(0.5), MIXTURE.denoiser, keys(5), x_T=x_T, transitions=SHORT)
    np.testing.assert_allclose(state.x, whole, rtol=1e-12)

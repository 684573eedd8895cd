"""EDM's churn and restarts around any sampler: by hand, the density that they keep, and what they cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_SCHEDULES, GAUSSIAN, MIXTURE, each, keys, normal, pick

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.continuous import transition_between
from ddpm_jax.diffusion.samplers import (
    Variance,
    advance,
    ancestral,
    churn,
    ddim,
    dpm_solver_pp_2m,
    heun,
    restart,
    sample,
    unipc,
)
from ddpm_jax.diffusion.schedules import linear, straight

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
CHAIN = SCHEDULE.transitions(timesteps.karras(SCHEDULE, 20))
SAMPLERS = {
    "ddim": ddim(),
    "heun": heun(),
    "2m": dpm_solver_pp_2m(),
    "unipc": unipc(),
    "small": ancestral(Variance.SMALL),
}


@each("schedule", ALL_SCHEDULES)
def test_a_transition_between_levels_is_that_of_the_host(schedule):
    made, t, s = schedule(40), np.array([40.0, 7.5, 2.0, 5.0]), np.array([39.0, 1.5, 1.0, 0.0])
    exact, found = made.between(t, s), transition_between(made.level(t), made.level(s))
    for name in ("beta", "log_var_small", "log_var_range"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=1e-8)


def test_a_step_is_algorithm_2_of_its_paper():
    """Karras et al. 2022, line by line in x_bar and sigma, with Euler's method for Heun's."""
    gamma, s_noise, x = 0.2, 1.007, normal(3, 3)
    step = pick(CHAIN, 9)
    sampler = churn(ddim(), SCHEDULE, amount=gamma, noise=s_noise, low=0.01, high=50)
    state, _ = sampler.step(GAUSSIAN.denoiser, keys(3), sampler.init(jnp.asarray(x)), step)

    z = noise_like(jax.vmap(jax.random.split)(keys(3))[:, 1], jnp.asarray(x))
    sigma, end = step.now.sigma / step.now.signal, step.next.sigma / step.next.signal
    higher = (1 + gamma) * sigma
    x_hat = x / step.now.signal + np.sqrt(higher**2 - sigma**2) * s_noise * z
    signal = 1 / np.sqrt(1 + higher**2)
    level = step.now._replace(signal=signal, sigma=higher * signal)
    d = (x_hat - GAUSSIAN.denoiser(signal * x_hat, level).x_0) / higher
    np.testing.assert_allclose(state.x / step.next.signal, x_hat + (end - higher) * d, rtol=1e-7)


@each("sampler", {name: SAMPLERS[name] for name in ("small", "unipc")})
def test_no_noise_changes_nothing(sampler):
    """Neither none of it, nor levels that are not met."""
    draw = partial(sample, denoise=MIXTURE.denoiser, keys=keys(4), x_T=normal(4, 2), transitions=CHAIN)
    for options in ({"amount": 0.0}, {"amount": 0.3, "low": 1e6}):
        changed = churn(sampler, SCHEDULE, **options)
        split = sampler._replace(
            step=lambda denoise, keys, *rest: sampler.step(denoise, jax.vmap(jax.random.split)(keys)[:, 0], *rest)
        )
        np.testing.assert_allclose(draw(changed), draw(split), rtol=1e-10)


@pytest.mark.parametrize(
    "sampler",
    [SAMPLERS["heun"], *(pytest.param(s, marks=pytest.mark.slow) for k, s in SAMPLERS.items() if k != "heun")],
)
def test_churn_and_restarts_reach_the_mixture(sampler):
    num, chain = 4000, SCHEDULE.transitions(timesteps.karras(SCHEDULE, 60))
    for changed in (
        churn(sampler, SCHEDULE, amount=0.15),
        restart(sampler, SCHEDULE, num_restarts=2, low=0.1, high=1.0, num_steps=12),
    ):
        x = jax.jit(partial(sample, changed, MIXTURE.denoiser, transitions=chain))(
            keys(num), x_T=normal(num, 2, seed=1)
        )
        np.testing.assert_allclose(np.mean(x, 0), MIXTURE.mean, atol=0.05)
        np.testing.assert_allclose(np.cov(x.T), MIXTURE.covariance, atol=0.05)


@pytest.mark.parametrize("change", ["churn", "restart"])
def test_noise_forgets_an_error(change):
    """A chain of too few steps from a wrong start ends nearer to the data's spread (Xu et al. 2023, theorem 1)."""
    wrong = 0.3 * normal(4000, 2, seed=2)
    few = SCHEDULE.transitions(timesteps.karras(SCHEDULE, 30))
    changed = {
        "churn": churn(ddim(), SCHEDULE, amount=0.3),
        "restart": restart(ddim(), SCHEDULE, num_restarts=4, low=0.06, high=3.0, num_steps=20),
    }[change]
    spread = lambda sampler: np.trace(
        np.cov(np.asarray(sample(sampler, MIXTURE.denoiser, keys(4000), x_T=wrong, transitions=few)).T)
    )
    exact = np.trace(MIXTURE.covariance)
    assert abs(spread(changed) - exact) < 0.6 * abs(spread(ddim()) - exact)


def test_a_restart_counts_its_evaluations_and_happens_once():
    sampler = restart(heun(), SCHEDULE, num_restarts=3, low=0.1, high=1.0, num_steps=4)
    indexed = (jnp.arange(CHAIN.num_steps), CHAIN)
    end = advance(sampler, MIXTURE.denoiser, keys(2), state=sampler.init(jnp.asarray(normal(2, 2))), indexed=indexed)
    assert int(end.info.evaluations) == 2 * 20 - 1 + 3 * 4 * 2


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.5), (1e-4, 1.0), (0.1, 1e5)])
def test_an_interval_that_is_impossible_is_refused(low, high):
    with pytest.raises(ValueError, match="a restart needs"):
        restart(ddim(), SCHEDULE, low=low, high=high)


def test_both_work_from_noise_without_signal():
    schedule = straight(1000)
    chain = schedule.transitions(timesteps.trailing(schedule, 10))
    for sampler in (churn(heun(), schedule, amount=0.2), restart(heun(), schedule, low=0.1, high=2.0)):
        x = sample(sampler, MIXTURE.denoiser, keys(4), x_T=normal(4, 2), transitions=chain)
        assert np.isfinite(x).all()

"""Our chains beside diffusers' schedulers, with a formula for the network: the rows of `docs/agreement.md`.

The network is the exact one of images whose pixels are drawn from N(0.3, 0.5**2), a tenth of them outside [-1, 1], and
in which a pixel and its mirror image in the row have the correlation 0.9.
"""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from support.agreement import different, equal
from support.analytic import pick

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert.outgoing import scheduler_config
from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.guidance import clip_x_0
from ddpm_jax.diffusion.prediction import Target
from ddpm_jax.diffusion.samplers import Variance, dpm_solver_pp_2m
from ddpm_jax.diffusion.samplers.ancestral import p_sample
from ddpm_jax.diffusion.samplers.ddim import ddim_step
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(1000)
SHAPE = (2, 3, 16, 16)
NAMES = {"fixed_small": Variance.SMALL, "fixed_large": Variance.LARGE, "learned_range": Variance.LEARNED}


def outputs(xp, x, index):
    """The noise that the network predicts, and a raw variance."""
    level = SCHEDULE.level(index + 1)
    mirrored = x @ xp.asarray(np.eye(16)[::-1].copy())
    eps = 0
    for part, mean, share in (((x + mirrored) / 2, 0.3, 1.9), ((x - mirrored) / 2, 0.0, 0.1)):
        variance = 0.25 * share * level.signal**2 + level.sigma**2
        eps = eps + level.sigma * (part - mean * level.signal) / variance
    return eps, xp.sin(3 * x)


def denoise(x_t, level):
    """This network as a denoiser of ours, clipped."""

    def network(x_t, level):
        eps, raw = outputs(jnp, x_t, np.asarray(level.t) - 1)
        return Target.EPS.prediction(eps, x_t, level)._replace(var_frac=(raw + 1) / 2)

    return clip_x_0(network)(x_t, level)


def with_our_schedule(scheduler, schedule=SCHEDULE):
    """A scheduler of diffusers with alpha_bar in float64, which it computes in float32."""
    import torch

    scheduler.alphas_cumprod = torch.tensor(schedule.alpha_bar[1:])
    return scheduler


def apart(ours, theirs):
    """The largest difference."""
    return float(np.abs(np.asarray(ours) - theirs.numpy()).max())


def typical(ours, theirs):
    """The root of the mean squared difference."""
    return float(np.sqrt(np.mean((np.asarray(ours) - theirs.numpy()) ** 2)))


def noise(seed):
    """A generator of torch."""
    import torch

    return torch.Generator().manual_seed(seed)


def start():
    import torch

    return torch.randn(SHAPE, generator=noise(0), dtype=torch.float64)


def ancestral(scheduler, variance, times, monkeypatch):
    """Both ends of a chain with the same noise, ours along the times and diffusers' along its own."""
    import torch

    monkeypatch.setitem(p_sample.__globals__, "noise_like", lambda noise, x: noise)  # given in the place of keys
    generator, again, theirs = noise(1), noise(1), start()
    ours, transitions = jnp.asarray(theirs.numpy()), SCHEDULE.transitions(times)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        output = torch.cat(outputs(torch, theirs, t), dim=1) if variance is Variance.LEARNED else None
        output = outputs(torch, theirs, t)[0] if output is None else output
        theirs = scheduler.step(output, t, theirs, generator=generator).prev_sample
        drawn = torch.randn(SHAPE, generator=again, dtype=torch.float64).numpy() if t else np.zeros(SHAPE)
        ours = p_sample(denoise, drawn, x_t=ours, transition=pick(transitions, i), variance=variance)
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_shortened_ancestral_chains(spacing, name, diffusers, monkeypatch):
    """`trailing` is the same with the small variance alone: with the others diffusers ends with noise."""
    scheduler = with_our_schedule(diffusers.DDPMScheduler(timestep_spacing=spacing, variance_type=name))
    scheduler.set_timesteps(20)
    times = getattr(timesteps, spacing)(SCHEDULE, 20)
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, times[:-1])
    difference = apart(*ancestral(scheduler, NAMES[name], times, monkeypatch))
    if spacing == "trailing" and name != "fixed_small":
        assert difference > 0.1
    else:
        equal(f"`DDPMScheduler`, 20 steps, `{spacing}`", difference)


def test_the_noise_with_which_a_trailing_chain_ends(diffusers):
    """Its standard deviation is that of 50 noising steps."""
    import torch

    scheduler = with_our_schedule(diffusers.DDPMScheduler(timestep_spacing="trailing", variance_type="fixed_large"))
    scheduler.set_timesteps(20)
    x = torch.zeros(1, 1, 256, 256, dtype=torch.float64)
    end = scheduler.step(x, int(scheduler.timesteps[-1]), x, generator=noise(0)).prev_sample
    different("`trailing` of `DDPMScheduler`, its last step", float(end.std()))
    np.testing.assert_allclose(end.std(), np.sqrt(1 - SCHEDULE.alpha_bar[50]), rtol=0.01)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("grid", sorted(factory.GRIDS))
def test_an_exported_scheduler_takes_the_steps_of_our_grid_of_its_spacing(grid, variance, diffusers, monkeypatch):
    config = experiment("digits")
    config.sample.grid, config.sample.variance = grid, variance
    config.diffusion.learned_variance = variance == "learned"
    settings = scheduler_config(config)
    scheduler = with_our_schedule(diffusers.DDPMScheduler.from_config(settings))
    scheduler.set_timesteps(15)
    config.sample.grid = settings["timestep_spacing"]
    times = factory.sampling_transitions(config, 15).now.t
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, times)
    ours, theirs = ancestral(scheduler, factory.variance(config), np.append(times, 0), monkeypatch)
    assert apart(ours, theirs) < 1e-9


def both_ddim(scheduler, times, *, clipped_noise=True):
    """Both ends of a chain of DDIM."""
    import torch

    theirs = start()
    ours, transitions = jnp.asarray(theirs.numpy()), SCHEDULE.transitions(times)
    keys = np.zeros(len(ours), np.uint32)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        eps = outputs(torch, theirs, t)[0]
        theirs = scheduler.step(eps, t, theirs, use_clipped_model_output=clipped_noise).prev_sample
        ours = ddim_step(denoise, keys, x_t=ours, transition=pick(transitions, i), eta=0.0)
    return ours, theirs


@pytest.fixture
def no_noise(monkeypatch):
    monkeypatch.setitem(ddim_step.__globals__, "noise_like", lambda keys, x: jnp.zeros_like(x))


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(spacing, diffusers):
    scheduler = with_our_schedule(diffusers.DDIMScheduler(timestep_spacing=spacing))
    scheduler.set_timesteps(20)
    times = getattr(timesteps, spacing)(SCHEDULE, 20)
    equal(f"`DDIMScheduler`, 20 steps, `{spacing}`", apart(*both_ddim(scheduler, times)))


@pytest.mark.usefixtures("no_noise")
def test_conventions_of_ddim(diffusers):
    """The noise after clipping; and jumps of T // N, which are not those of its own `linspace`."""
    scheduler = with_our_schedule(diffusers.DDIMScheduler(timestep_spacing="trailing"))
    scheduler.set_timesteps(20)
    ends = both_ddim(scheduler, timesteps.trailing(SCHEDULE, 20), clipped_noise=False)
    different("noise of DDIM where x_0 is clipped", typical(*ends))
    scheduler = with_our_schedule(diffusers.DDIMScheduler(timestep_spacing="linspace"))
    scheduler.set_timesteps(20)
    times = timesteps.linspace(SCHEDULE, 20)
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, times[:-1])
    different("jumps of `DDIMScheduler` on `linspace`", typical(*both_ddim(scheduler, times)))


def both_dpm_solver(diffusers, num_steps, last, **options):
    """Both ends of a chain of DPM-Solver++ along diffusers' times, ours with the given last one."""
    import torch

    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", **options)
    scheduler = with_our_schedule(scheduler)
    with warnings.catch_warnings():  # diffusers makes an array of a tensor in a way that NumPy 2 will refuse
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(num_steps)
    theirs, sampler = start(), dpm_solver_pp_2m()
    state = sampler.init(jnp.asarray(theirs.numpy()))
    transitions = SCHEDULE.transitions(np.append(scheduler.timesteps.numpy() + 1, last))
    unclipped = lambda x_t, level: Target.EPS.prediction(outputs(jnp, x_t, np.asarray(level.t) - 1)[0], x_t, level)
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(outputs(torch, theirs, int(t))[0], t, theirs).prev_sample
        state, _ = sampler.step(unclipped, None, state, pick(transitions, i))
    return state.x, theirs


@pytest.mark.parametrize("num_steps", [10, 20])
def test_dpm_solver(num_steps, diffusers):
    ends = both_dpm_solver(diffusers, num_steps, 0, final_sigmas_type="zero", lower_order_final=num_steps < 15)
    equal(f"`DPMSolverMultistepScheduler`, {num_steps} steps", apart(*ends))


def test_the_last_step_of_dpm_solver_before_the_first_time(diffusers):
    """Where it does not go to sigma 0, at which both orders are the same."""
    options = {"num_steps": 10, "last": 1, "final_sigmas_type": "sigma_min"}
    assert apart(*both_dpm_solver(diffusers, **options, lower_order_final=False)) < 1e-5
    ends = both_dpm_solver(diffusers, **options, lower_order_final=True)
    different("last step of `DPMSolverMultistepScheduler` to sigma_min", typical(*ends))


def test_the_precision_of_the_schedule(diffusers):
    theirs = diffusers.DDPMScheduler().alphas_cumprod.numpy().astype(np.float64)
    different("alpha_bar in float32", float(np.abs((1 - theirs) / (1 - SCHEDULE.alpha_bar[1:]) - 1).max()))

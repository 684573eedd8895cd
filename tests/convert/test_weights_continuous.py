"""Networks of flow matching and of EDM beside diffusers' own schedulers, from the same noise to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.weights import SMALL, random_unet

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert import schedulers
from ddpm_jax.convert.continuous_schedulers import CONTINUOUS
from ddpm_jax.convert.incoming import configured, converted, understood
from ddpm_jax.diffusion.samplers import ddim, sample
from ddpm_jax.errors import UserError

SHAPE = (2, 3, 8, 8)


def opened(folder):
    """The configuration and the denoiser of a converted folder."""
    foreign, _ = understood(folder, {})
    config = configured(foreign, experiment("base"), name="converted")
    params, _ = converted(foreign, config, source=folder)
    return config, factory.denoiser(config, factory.network(config))(jax.tree.map(jnp.asarray, params))


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_eulers_method_ends_where_diffusers_ends(name, diffusers, tmp_path):
    import torch

    unet = random_unet(diffusers, {**SMALL["google"], "num_class_embeds": None})
    scheduler = getattr(diffusers, name)()
    unet.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    config, denoise = opened(tmp_path)
    schedule = factory.noise_schedule(config)
    if name.startswith("Flow"):
        scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.2, 0.05])  # whole times of ours
        times = np.round(1000 * scheduler.sigmas.double().numpy())
    else:
        scheduler.set_timesteps(6)
        times = np.append(schedule.time(-2 * np.log(scheduler.sigmas[:-1].double().numpy())), 0)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if name.startswith("EDM") else x
        with torch.no_grad():
            x = scheduler.step(unet(given, t[None].expand(2)).sample, t, x).prev_sample
    ours = jax.jit(lambda x: sample(
        ddim(), denoise, jax.random.split(jax.random.key(0), 2), x_T=x,
        transitions=jax.tree.map(jnp.float32, schedule.transitions(times)),
    ))(jnp.asarray(noise.permute(0, 2, 3, 1).numpy()))  # fmt: skip
    expected = x.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-3 * np.abs(expected).max())


SETTINGS = {
    "FlowMatchEulerDiscreteScheduler": {"diffusion.schedule": "straight", "diffusion.target": "flow"},
    "FlowMatchHeunDiscreteScheduler": {"sample.sampler": "heun", "model.time_offset": 1.0},
    "EDMEulerScheduler": {"diffusion.schedule": "log_snr", "diffusion.target": "edm", "sample.grid": "karras"},
    "EDMDPMSolverMultistepScheduler": {"sample.sampler": "dpm_solver_pp_2m", "diffusion.sigma_data": 0.5},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_scheduler_has_its_settings(name):
    settings, notes = CONTINUOUS[name]({})
    assert SETTINGS.keys() == CONTINUOUS.keys()
    assert settings.items() >= SETTINGS[name].items()
    assert notes == []


def test_the_time_of_edm_is_a_quarter_of_the_logarithm_of_sigma():
    settings, notes = CONTINUOUS["EDMEulerScheduler"]({"sigma_min": 0.01, "sigma_max": 50.0, "rho": 5.0})
    ends = np.array([0, 999])
    time = settings["model.time_scale"] * (ends + settings["model.time_offset"])
    np.testing.assert_allclose(time, np.log([0.01, 50.0]) / 4, rtol=1e-9)
    assert (settings["diffusion.log_snr_first"], settings["diffusion.log_snr_last"]) == pytest.approx(
        (-2 * np.log(0.01), -2 * np.log(50))
    )
    assert notes == ["its rho=5 is 7 here"]


def test_a_shift_is_noted_because_it_spaces_the_steps_alone():
    _, notes = CONTINUOUS["FlowMatchEulerDiscreteScheduler"]({"shift": 3.0})
    assert notes == ["its shift spaces the steps only; here they are evenly spaced unless --grid says otherwise"]


@pytest.mark.parametrize(
    ("name", "scheduler", "said"),
    [
        ("EDMEulerScheduler", {"prediction_type": "v_prediction"}, "prediction_type='v_prediction' is not supported"),
        ("EDMEulerScheduler", {"sigma_min": 100.0}, "sigma_min must be less than sigma_max"),
        ("EDMEulerScheduler", {"sigma_data": 0}, "sigma_data=0 must be a number above 0"),
        ("FlowMatchEulerDiscreteScheduler", {"shift": "much"}, "shift='much' must be a number above 0"),
    ],
)
def test_what_cannot_be_expressed_is_refused(name, scheduler, said):
    with pytest.raises(UserError, match=said):
        CONTINUOUS[name](scheduler)


def test_a_network_of_two_outputs_is_refused():
    with pytest.raises(UserError, match="EDMEulerScheduler does not fit a network that predicts a variance"):
        schedulers.settings({"_class_name": "EDMEulerScheduler"}, size=8, learned=True)

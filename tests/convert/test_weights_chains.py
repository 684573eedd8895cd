"""Chains of converted networks beside diffusers' own: DDIM from the same x_T, ancestral with the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.weights import SMALL, random_unet, saved

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert.incoming import configured, converted, understood
from ddpm_jax.diffusion.samplers.ancestral import p_sample
from ddpm_jax.diffusion.samplers.ddim import ddim_step

SHAPE = (2, 3, 8, 8)


def to_ours(x):
    return jnp.asarray(x.permute(0, 2, 3, 1).numpy())


def both(diffusers, folder, name, **scheduler):
    """The network of diffusers as a function of (x, time), and ours as `(config, denoiser)`."""
    import torch

    settings = {**SMALL[name], "num_class_embeds": None}
    unet = random_unet(diffusers, settings)
    saved(folder, unet, **scheduler)
    foreign, _ = understood(folder, {})
    config = configured(foreign, experiment("base"), name="converted")
    params, _ = converted(foreign, config, source=folder)
    denoise = factory.denoiser(config, factory.network(config))(jax.tree.map(jnp.asarray, params))

    def theirs(x, t):
        with torch.no_grad():
            return unet(x, t).sample

    return theirs, config, denoise


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_twenty_steps_of_ddim_end_where_diffusers_ends(spacing, diffusers, tmp_path):
    """`trailing` is our grid of that name; `leading` ends at the first time, so its times are given."""
    import torch

    network, config, denoise = both(diffusers, tmp_path, "google", variance_type="fixed_large")
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(20)
    times = np.append(scheduler.timesteps.numpy() + 1, 0)
    if spacing == "trailing":
        np.testing.assert_array_equal(times, np.append(factory.sampling_transitions(config, 20).now.t, 0))
    transitions = factory.noise_schedule(config).transitions(times)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    step = jax.jit(
        lambda x, move: ddim_step(denoise, jax.random.split(jax.random.key(0), 2), x_t=x, transition=move, eta=0.0)
    )
    ours = to_ours(x)
    for i, t in enumerate(scheduler.timesteps):
        # Where x_0 is clipped, the noise is what explains x_t with it.
        x = scheduler.step(network(x, t), t, x, use_clipped_model_output=True).prev_sample
        ours = step(ours, jax.tree.map(lambda leaf, i=i: jnp.float32(leaf[i]), transitions))
    apart = np.abs(ours - to_ours(x)).max()
    print(f"\n20 steps of DDIM, {spacing}: at most {apart:.1e} apart")
    assert apart < 1e-3
    assert np.abs(ours).max() > 0.5


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("google", {"variance_type": "fixed_large"}),
        ("tutorial", {"variance_type": "fixed_small", "prediction_type": "v_prediction", "num_train_timesteps": 100}),
        ("adm", {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100}),
    ],
)
def test_ancestral_steps_are_diffusers_steps(name, settings, diffusers, tmp_path, monkeypatch):
    """Both go their own way from one x_T with the same noise, and are at the same place after every step."""
    import torch

    network, config, denoise = both(diffusers, tmp_path, name, **settings)
    scheduler = diffusers.DDPMScheduler(**settings)
    monkeypatch.setitem(p_sample.__globals__, "noise_like", lambda noise, x: noise)  # given in the place of keys
    variance, transitions = factory.variance(config), factory.sampling_transitions(config, 0)

    @jax.jit
    def step(x, noise, move):
        return p_sample(denoise, noise, x_t=x, transition=move, variance=variance)

    generator, noises = (torch.Generator().manual_seed(1) for _ in range(2))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    ours, apart = to_ours(x), []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, t), int(t), x, generator=generator).prev_sample
        noise = to_ours(torch.randn(SHAPE, generator=noises)) if t > 0 else jnp.zeros_like(ours)
        ours = step(ours, noise, jax.tree.map(lambda leaf, i=i: jnp.float32(leaf[i]), transitions))
        apart.append(np.abs(np.asarray(ours) - np.asarray(to_ours(x))).max())
    assert len(apart) == settings.get("num_train_timesteps", 1000)
    print(f"\n{len(apart)} ancestral steps, {name}: at most {max(apart):.1e} apart")
    assert max(apart) < 1e-3

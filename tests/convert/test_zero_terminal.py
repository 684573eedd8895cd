"""Schedules that end in noise beside those of diffusers, which reads and writes the same setting."""

import numpy as np
import pytest
from support.tiny import tiny_config

from ddpm_jax import factory
from ddpm_jax.convert.outgoing import scheduler_config
from ddpm_jax.errors import UserError

SETTINGS = {"diffusion__zero_terminal_snr": True, "diffusion__target": "v", "diffusion__num_timesteps": 1000}


def test_the_levels_are_those_of_diffusers():
    """Up to float32, in which it multiplies a thousand factors, and to its last level, which it sets to 2**-24."""
    diffusers = pytest.importorskip("diffusers", reason="pip install diffusers torch")
    config = tiny_config(**SETTINGS)
    settings = scheduler_config(config)
    assert settings["rescale_betas_zero_snr"] is True
    theirs = diffusers.DDPMScheduler.from_config(settings).alphas_cumprod.double().numpy()
    ours = factory.noise_schedule(config).alpha_bar[1:]
    np.testing.assert_allclose(ours[:-1], theirs[:-1], rtol=2e-3, atol=1e-6)
    assert ours[-1] == 0
    assert theirs[-1] < 1e-6


@pytest.mark.parametrize(
    ("key", "value"), [("schedule", "log_snr"), ("target", "flow"), ("target", "edm"), ("shift", 2.0)]
)
def test_what_the_scheduler_lacks_is_not_exported(key, value):
    with pytest.raises(
        UserError, match=f"does not support config.diffusion.{key}={value}: this run cannot be exported"
    ):
        scheduler_config(tiny_config(**{**SETTINGS, f"diffusion__{key}": value}))

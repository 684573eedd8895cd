"""Of the way back: noise schedule, variance, sampler, and the moves of its chain."""

import math

from ddpm_jax.diffusion import schedules, timesteps
from ddpm_jax.diffusion.samplers import (
    Variance,
    ancestral,
    annealed_langevin,
    ddim,
    dpm_solver_pp_2m,
    euler_maruyama,
    heun,
    langevin_corrector,
)
from ddpm_jax.errors import UserError
from ddpm_jax.factory.names import named

_NUMBERS = ("corrector_snr", "guidance_scale", "classifier_scale")  # of a chain, besides eta
_BETAS = ("beta_start", "beta_end")
SCHEDULES = {
    "linear": (schedules.linear, _BETAS),
    "quadratic": (schedules.quadratic, _BETAS),
    "sigmoid": (schedules.sigmoid, _BETAS),
    "cosine": (schedules.cosine, ()),
}
VARIANCES = {variance.value: variance for variance in Variance}
SAMPLERS = {  # of the configuration and the chain's settings, numbers that may change without compiling anew
    "ancestral": lambda config, settings: ancestral(variance(config)),
    "ddim": lambda config, settings: ddim(settings["eta"]),
    "heun": lambda config, settings: heun(),
    "dpm_solver_pp_2m": lambda config, settings: dpm_solver_pp_2m(),
    "euler_maruyama": lambda config, settings: euler_maruyama(),
    "langevin": lambda config, settings: annealed_langevin(),
}
GRIDS = {
    "uniform": timesteps.uniform,
    "trailing": timesteps.trailing,
    "quadratic": timesteps.quadratic,
    "log_snr": timesteps.log_snr,
    "karras": timesteps.karras,
}


def noise_schedule(config):
    """The `NoiseSchedule` of `config.diffusion`."""
    diffusion = config.diffusion
    make, keys = named(SCHEDULES, diffusion.schedule, "diffusion.schedule")
    try:
        return make(diffusion.num_timesteps, **{key: diffusion[key] for key in keys})
    except ValueError as error:
        raise UserError(f"config.diffusion makes no noise schedule: {error}") from error


def variance(config):
    """The `Variance` of the reverse step."""
    chosen = named(VARIANCES, config.sample.variance, "sample.variance")
    if chosen is Variance.LEARNED and not config.diffusion.learned_variance:
        raise UserError("this model has no learned variance; use sample.variance=small or large")
    return chosen


def sampler(config):
    """A function from `sampler_settings` to the `Sampler` of `config.sample`."""
    make = named(SAMPLERS, config.sample.sampler, "sample.sampler")

    def with_settings(settings):
        chosen = make(config, settings)
        if not config.sample.corrector_steps:
            return chosen
        return langevin_corrector(chosen, snr=settings["corrector_snr"], num_steps=config.sample.corrector_steps)

    with_settings(sampler_settings(config))  # so that settings that do not fit are refused here
    return with_settings


def sampler_settings(config):
    """The numbers of `config.sample` that a compiled chain takes as inputs."""
    if not 0 <= config.sample.eta <= 1:
        raise UserError(f"eta lies between 0 (deterministic) and 1 (ancestral), got {config.sample.eta:g}")
    settings = {name: config.sample[name] for name in ("eta", *_NUMBERS)}
    for name in _NUMBERS:
        if not 0 <= settings[name] < math.inf:
            raise UserError(f"{name} must be 0 or a number above it, got {settings[name]:g}")
    return settings


def sampling_transitions(config, num_steps):
    """The moves of a reverse chain of `num_steps` on the configured grid; 0 for all T."""
    noise = noise_schedule(config)
    grid = named(GRIDS, config.sample.grid, "sample.grid")
    try:
        return noise.transitions(grid(noise, num_steps or noise.num_timesteps))
    except ValueError as error:
        raise UserError(f"no chain of {num_steps} steps: {error}") from error

"""The reverse process from a configuration: noise schedule, variance, sampler, and the transitions of its chain."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.config import learned_guidance, problem, takes_steps
from ddpm_jax.diffusion import gaussian, schedules, sequences, timesteps
from ddpm_jax.diffusion.samplers import (
    Sampler,
    Variance,
    adams_bashforth,
    ancestral,
    annealed_langevin,
    churn,
    consistency,
    ddim,
    deis,
    dpm_solver_pp_2m,
    dpm_solver_pp_3m,
    euler_maruyama,
    heun,
    langevin_corrector,
    mean_flow,
    restart,
    unipc,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule, Transition
from ddpm_jax.diffusion.sequences import ChainFit
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.factory.lookup import named

Settings: TypeAlias = Mapping[str, float | jax.Array]
"""The numbers of `config.sample` by name, which are inputs of a compiled chain and may be traced."""

# The settings of a chain.
_NUMBERS = ("eta", "corrector_snr", "guidance_scale", "classifier_scale")
_NUMBERS += ("churn", "churn_noise", "churn_low", "churn_high")
_BETAS, _LOG_SNR = ("beta_start", "beta_end"), ("log_snr_first", "log_snr_last")
# The function that makes a schedule, and the keys of `config.diffusion` that it takes besides `num_timesteps`.
SCHEDULES: dict[str, tuple[Callable[..., NoiseSchedule], tuple[str, ...]]] = {
    "linear": (schedules.linear, _BETAS),
    "quadratic": (schedules.quadratic, _BETAS),
    "sigmoid": (schedules.sigmoid, _BETAS),
    "cosine": (schedules.cosine, ()),
    "log_snr": (
        lambda num_timesteps, log_snr_first, log_snr_last: schedules.log_snr(
            num_timesteps, first=log_snr_first, last=log_snr_last
        ),
        _LOG_SNR,
    ),
    "straight": (schedules.straight, ()),
}
VARIANCES: dict[str, Variance] = {variance.value: variance for variance in Variance}
# The normal CDF by which the bound's decoder integrates.
DECODERS: dict[str, gaussian.Cdf] = {"exact": gaussian.normal_cdf, "tanh": gaussian.tanh_cdf}
# From the configuration and the chain's settings, numbers that may change without compiling again.
SAMPLERS: dict[str, Callable[[ConfigDict, Settings], Sampler]] = {
    "ancestral": lambda config, settings: ancestral(variance(config)),
    "ddim": lambda config, settings: ddim(settings["eta"]),
    "heun": lambda config, settings: heun(),
    "dpm_solver_pp_2m": lambda config, settings: dpm_solver_pp_2m(settings["eta"]),
    "dpm_solver_pp_3m": lambda config, settings: dpm_solver_pp_3m(settings["eta"]),
    "unipc": lambda config, settings: unipc(),
    "deis": lambda config, settings: deis(),
    "adams_bashforth": lambda config, settings: adams_bashforth(),
    "euler_maruyama": lambda config, settings: euler_maruyama(),
    "langevin": lambda config, settings: annealed_langevin(),
    "consistency": lambda config, settings: consistency(),
    "mean_flow": lambda config, settings: _mean_flow(config),
}
# They divide by the signal at t = T.
_NEED_SIGNAL = ("euler_maruyama", "langevin")
# From a schedule and the number of steps N to N + 1 falling times.
GRIDS: dict[str, Callable[[NoiseSchedule, int], np.ndarray]] = {
    "uniform": timesteps.uniform,
    "trailing": timesteps.trailing,
    "leading": timesteps.leading,
    "linspace": timesteps.linspace,
    "quadratic": timesteps.quadratic,
    "log_snr": timesteps.log_snr,
    "karras": timesteps.karras,
}
# The same from what was measured of a run.
FITTED_GRIDS: dict[str, Callable[[ChainFit, int], np.ndarray]] = {
    "bound": lambda fit, num_steps: sequences.lowest_bound(fit.terms, num_steps)[-1].times,
    "fitted": lambda fit, num_steps: sequences.least_error(fit.jumps, num_steps)[-1].times,
}


class Guidance(NamedTuple):
    """What a guided denoiser evaluates, which the scales decide: a compiled chain has one, and any scales of it.

    Attributes:
      conditional: whether the network is evaluated with the label.
      unconditional: whether it is evaluated with the null label.
      classifier: whether the gradient of a classifier is added.
    """

    conditional: bool
    unconditional: bool
    classifier: bool


class GivenSampler:
    """A program's sampler as part of a key. It equals only the same object, since another one may read other values.

    Attributes:
      sampler: the `Sampler`.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __eq__(self, other: object) -> bool:
        """Whether the other key has the same object."""
        return isinstance(other, GivenSampler) and self.sampler is other.sampler

    def __hash__(self) -> int:
        """The identity of the object."""
        return id(self.sampler)


class ChainProgram(NamedTuple):
    """What `config.sample` fixes in a compiled chain; equal programs differ in numbers and labels only.

    Attributes:
      num_steps: number of steps; 0 for all T.
      sampler: the name of the sampler, or that of a program.
      variance, grid, corrector_steps, clip_x_0, clip_order, classifier_on: as in `config.sample`.
      restarts, restart_low, restart_high, restart_steps: as in `config.sample`.
      churns: whether noise is added before each step.
      guidance: the `Guidance`.
    """

    num_steps: int
    sampler: str | GivenSampler
    variance: str
    grid: str
    corrector_steps: int
    clip_x_0: bool
    clip_order: str
    classifier_on: str
    restarts: int
    restart_low: float
    restart_high: float
    restart_steps: int
    churns: bool
    guidance: Guidance


def chain_program(config: ConfigDict, num_steps: int, sampler: Sampler | None = None) -> ChainProgram:
    """The program of a chain of `num_steps`, with the sampler of `config.sample` unless one is given."""
    part = config.sample
    names = part.sampler if sampler is None else GivenSampler(sampler), part.variance, part.grid
    clips = part.clip_x_0, part.clip_order
    returns = part.restarts, part.restart_low, part.restart_high, part.restart_steps
    kinds = part.classifier_on, *returns, part.churn > 0
    return ChainProgram(num_steps, *names, part.corrector_steps, *clips, *kinds, guidance(config))


def guidance(config: ConfigDict) -> Guidance:
    """The guidance of `config.sample`: scales 0 and 1 need one evaluation of the network, all others two."""
    part = config.sample
    return Guidance(part.guidance_scale != 0, part.guidance_scale != 1, part.classifier_scale != 0)


def checked_guidance(config: ConfigDict) -> Guidance:
    """The `guidance`, after a check that the model was trained for it.

    Raises:
      UserError: the model was not trained without the class, which the guidance evaluates, or has learned guidance.
    """
    scale, evaluated = config.sample.guidance_scale, guidance(config)
    learned = learned_guidance(config)
    if learned != 1 and evaluated.unconditional and evaluated.conditional:
        raise UserError(
            f"guidance_scale={scale:g} would guide twice: this student has learned the guidance of the scale "
            f"{learned:g}; set guidance_scale (config.sample.guidance_scale) to 1"
        )
    if evaluated.unconditional and not config.labels.dropout:
        model = "was trained only with the class" if config.labels.num_classes else "is unconditional"
        raise UserError(
            f"guidance_scale={scale:g} needs a model trained both with and without the class, but this model "
            f"{model}: train one with config.labels.dropout=0.1, or guide it with a classifier"
        )
    return evaluated


def noise_schedule(config: ConfigDict) -> NoiseSchedule:
    """The `NoiseSchedule` of `config.diffusion`.

    Raises:
      UserError: there is no schedule of that name, or its numbers make none.
    """
    diffusion = config.diffusion
    make, keys = named(SCHEDULES, diffusion.schedule, "diffusion.schedule")
    try:
        made = make(diffusion.num_timesteps, **{key: diffusion[key] for key in keys})
        made = made if diffusion.shift == 1 else schedules.shifted(made, diffusion.shift)
        return schedules.zero_terminal_snr(made) if diffusion.zero_terminal_snr else made
    except ValueError as error:
        raise UserError(f"config.diffusion does not define a valid noise schedule: {error}") from error


def variance(config: ConfigDict) -> Variance:
    """The `Variance` of the reverse step.

    Raises:
      UserError: there is no variance of that name, or it is the learned one and the model has none.
    """
    chosen = named(VARIANCES, config.sample.variance, "sample.variance")
    if chosen is Variance.LEARNED and not config.diffusion.learned_variance:
        raise UserError("this model has no learned variance; use sample.variance=small or large")
    return chosen


def decoder(config: ConfigDict) -> gaussian.Cdf:
    """The normal CDF by which the decoder of the bound integrates, exact or as published code approximates it."""
    return named(DECODERS, config.sample.decoder, "sample.decoder")


def sampler(config: ConfigDict, given: Sampler | None = None) -> Callable[[Settings], Sampler]:
    """A function from `sampler_settings` to the `Sampler` of `config.sample`, with what is added to it (`_changed`).

    Args:
      config: configuration.
      given: a `Sampler` of a program in place of the configured one, or None.

    Raises:
      UserError: there is no sampler of that name, or a setting does not suit it.
    """
    configured = named(SAMPLERS, config.sample.sampler, "sample.sampler")
    if given is None and config.sample.sampler in _NEED_SIGNAL and noise_schedule(config).ends_in_noise:
        raise UserError(
            f"sampler={config.sample.sampler} needs a schedule with some signal at t = T, and this one ends in noise: "
            "choose another sampler, such as ancestral or ddim"
        )
    other = given is not None or config.sample.sampler != "ancestral" or config.sample.corrector_steps
    if config.sample.classifier_on == "mean" and other:
        raise UserError(
            "classifier_on=mean shifts the mean of the ancestral step alone: choose sampler=ancestral without "
            "corrector_steps, or classifier_on=score"
        )
    make = configured if given is None else lambda config, settings: given

    def with_settings(settings: Settings) -> Sampler:
        return _changed(make(config, settings), config, settings)

    with_settings(sampler_settings(config))  # so that settings that do not fit raise an error here
    return with_settings


def _mean_flow(config: ConfigDict) -> Sampler:
    """The sampler of a student that is told where a step ends.

    Raises:
      UserError: the network is not one.
    """
    if not takes_steps(config):
        raise UserError(
            "sampler=mean_flow needs a network that is told where a step ends: train a student with "
            "config.distil.method=mean_flow, or choose another sampler, such as ddim"
        )
    return mean_flow()


def _changed(chosen: Sampler, config: ConfigDict, settings: Settings) -> Sampler:
    """A sampler with Langevin steps, churn and restarts, as configured."""
    part = config.sample
    if part.corrector_steps:
        chosen = langevin_corrector(chosen, snr=settings["corrector_snr"], num_steps=part.corrector_steps)
    if part.churn:
        numbers = {name: settings[f"churn_{name}"] for name in ("noise", "low", "high")}
        chosen = churn(chosen, noise_schedule(config), amount=settings["churn"], **numbers)
    if not part.restarts:
        return chosen
    interval = {"low": part.restart_low, "high": part.restart_high, "num_steps": part.restart_steps}
    try:
        return restart(chosen, noise_schedule(config), num_restarts=part.restarts, **interval)
    except ValueError as error:
        raise UserError(f"sample.restart_low and restart_high: {error}") from error


def sampler_settings(config: ConfigDict) -> dict[str, float]:
    """The numbers of `config.sample` that a compiled chain takes as inputs, by name.

    Raises:
      UserError: one of them is out of its range.
    """
    settings = {name: config.sample[name] for name in _NUMBERS}
    _check_values(settings)
    return settings


def _check_values(settings: Mapping[str, Any]) -> None:
    """Raises a `UserError` if a setting of `config.sample` is out of its range or is none of its choices."""
    for name, value in settings.items():
        if wrong := problem(f"sample.{name}", value):
            raise UserError(f"{name}={shortened(repr(value))} {wrong}")


def check_sampling(config: ConfigDict) -> None:
    """Raises a `UserError` if a setting of `config.sample`, but for the labels, is out of its range or does not fit."""
    _check_values(config.sample)
    sampler(config)
    variance(config)
    checked_guidance(config)
    if config.sample.grid not in FITTED_GRIDS:
        sampling_transitions(config, config.sample.num_steps)


def fitted_keys(config: ConfigDict) -> list[str]:
    """The settings of `config.sample` that need what was measured of a run, as `key=value`."""
    part = config.sample
    fitted = {"grid": part.grid in FITTED_GRIDS, "variance": part.variance == Variance.ANALYTIC.value}
    return [f"sample.{key}={part[key]}" for key, needs in fitted.items() if needs]


def sampling_transitions(config: ConfigDict, num_steps: int, fit: ChainFit | None = None) -> Transition:
    """The transitions of a reverse chain of `num_steps` on the configured grid, leaves `[num_steps]`; 0 for all T.

    Args:
      config: configuration.
      num_steps: number of steps.
      fit: what was measured of the run, for the grids that need it.

    Raises:
      UserError: there is no grid of that name, it cannot have so many steps, or it needs measurements and has none.
    """
    noise, name = noise_schedule(config), config.sample.grid
    num_steps = num_steps or noise.num_timesteps
    if name in FITTED_GRIDS and fit is None:
        raise UserError(f"sample.grid={name} needs measurements of a trained run: choose it when the run is sampled")
    try:
        if fit is not None and name in FITTED_GRIDS:
            return noise.transitions(FITTED_GRIDS[name](fit, num_steps))
        return noise.transitions(named(GRIDS, name, "sample.grid")(noise, num_steps))
    except ValueError as error:
        raise UserError(f"cannot make a chain of {num_steps} steps: {error}") from error

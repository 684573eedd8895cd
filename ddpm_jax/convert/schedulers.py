"""The settings of diffusers' schedulers: the noise schedule that a network was trained with, and the sampler.

A scheduler that is only for sampling (PNDM, Euler, DPM-Solver and the like) has the noise schedule of the training; our
closest sampler takes its place, and a note tells the user. A scheduler with another kind of noise is refused by its
name. The tables serve both directions. Read next: `continuous_schedulers.py`, `diffusers.py`.
"""

from collections.abc import Mapping
from typing import Any

from ddpm_jax.convert.continuous_schedulers import CONTINUOUS
from ddpm_jax.convert.values import COUNT, FLAG, FRACTION, NAME, Rule, check_values, ours, shown
from ddpm_jax.errors import UserError

# From our names to those of diffusers.
SCHEDULE = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
TARGET = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
VARIANCE = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
SPACING = {"trailing": "trailing", "leading": "leading", "linspace": "linspace"}
# From diffusers' schedulers to our samplers; `_CLOSEST` has those that have no exact counterpart.
_SAMPLERS = {
    "DDPMScheduler": "ancestral",
    "DDPMParallelScheduler": "ancestral",
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
}
_CLOSEST = {
    "PNDMScheduler": "ddim",
    "LMSDiscreteScheduler": "ddim",
    "EulerDiscreteScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "ancestral",
    "DPMSolverSDEScheduler": "ancestral",
    "KDPM2AncestralDiscreteScheduler": "ancestral",
    "SASolverScheduler": "ancestral",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "heun",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpm_solver_pp_2m",
    "DPMSolverSinglestepScheduler": "dpm_solver_pp_2m",
    "UniPCMultistepScheduler": "unipc",
}
# Their defaults of beta_start and beta_end differ from those of the others.
_OTHER_BETAS = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
                "DPMSolverSDEScheduler"}  # fmt: skip
_VALUES: dict[str, Rule] = {
    "num_train_timesteps": COUNT,
    "beta_start": FRACTION,
    "beta_end": FRACTION,
    "variance_type": NAME,
    "clip_sample": FLAG,
    "rescale_betas_zero_snr": FLAG,
}
_MUST_BE: dict[str, Any] = {
    "trained_betas": None,
    "thresholding": False,
    "clip_sample_range": 1.0,
    "use_flow_sigmas": False,
}
_FILE = "scheduler_config.json"


def settings(scheduler: Mapping[str, Any], *, size: int, learned: bool) -> tuple[dict[str, Any], list[str]]:
    """Our settings for those of a scheduler, and notes about them for the user.

    Args:
      scheduler: the settings in its file; where there are none, those of Ho et al. 2020 for that size are taken.
      size: height and width of the images in pixels.
      learned: whether the network predicts a variance.

    Raises:
      UserError: our configuration cannot express the scheduler.
    """
    name = scheduler.get("_class_name", "DDPMScheduler")
    if isinstance(name, str) and name in CONTINUOUS:
        if learned:
            raise UserError(f"{_FILE}: {name} does not fit a network that predicts a variance")
        return CONTINUOUS[name](scheduler)
    sampler, notes = _sampler(name)
    if notes and scheduler.get("variance_type", "") is None:  # such a scheduler has no variance of its own
        scheduler = {key: value for key, value in scheduler.items() if key != "variance_type"}
    check_values(_FILE, scheduler, _VALUES)
    for key, needed in _MUST_BE.items():
        if scheduler.get(key, needed) != needed:
            raise UserError(f"{_FILE}: {key}={shown(scheduler[key])} is not supported")
    beta_start, beta_end = (0.00085, 0.012) if name in _OTHER_BETAS else (1e-4, 0.02)
    return {
        "diffusion.num_timesteps": scheduler.get("num_train_timesteps", 1000),
        "diffusion.schedule": ours(SCHEDULE, scheduler.get("beta_schedule", "linear"), "beta_schedule"),
        "diffusion.beta_start": scheduler.get("beta_start", beta_start),
        "diffusion.beta_end": scheduler.get("beta_end", beta_end),
        "diffusion.zero_terminal_snr": scheduler.get("rescale_betas_zero_snr", False),
        "diffusion.target": ours(TARGET, scheduler.get("prediction_type", "epsilon"), "prediction_type"),
        "sample.variance": _variance(scheduler, size=size, learned=learned),
        "sample.sampler": sampler,
        "sample.clip_x_0": scheduler.get("clip_sample", True),
    }, notes


def _sampler(name: Any) -> tuple[str, list[str]]:
    """Our sampler for a scheduler of that class name, and notes about it for the user."""
    if isinstance(name, str) and name in _SAMPLERS:
        return _SAMPLERS[name], []
    if isinstance(name, str) and name in _CLOSEST:
        closest = _CLOSEST[name]
        return closest, [
            f"{name} is not available here: its noise schedule is used, and the run samples with {closest}"
        ]
    known = ", ".join((*_SAMPLERS, *_CLOSEST)).replace("Scheduler", "")
    raise UserError(f"{_FILE} describes a scheduler {shown(name)}, which is not supported; these are: {known}")


def _variance(scheduler: Mapping[str, Any], *, size: int, learned: bool) -> str:
    """Our name for the variance, which must fit the channels of the network's output."""
    usual = "learned_range" if learned else "fixed_large" if size <= 64 and not scheduler else "fixed_small"
    given = scheduler.get("variance_type", usual)
    variance = ours(VARIANCE, given.replace("fixed_small_log", "fixed_small"), "variance_type")
    if (variance == "learned") != learned:
        raise UserError(
            f"{_FILE}: variance_type={shown(given)} does not fit a network whose output has "
            f"{'twice ' if learned else ''}the channels of an image"
        )
    return variance

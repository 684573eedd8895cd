"""The settings of diffusers' schedulers of flow matching and of EDM, whose networks are given another time than ours.

Our networks are given `t - 1`. One of flow matching is given `1000 s` with the straight path's s, which is t; one of
EDM `ln(sigma) / 4`, which is linear in t on a schedule that is linear in log-SNR. `model.time_scale` and
`model.time_offset` express both.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ddpm_jax.convert.values import COUNT, FLAG, POSITIVE, Rule, check_values, shown
from ddpm_jax.errors import UserError

_FILE = "scheduler_config.json"
_FLOW: dict[str, Rule] = {"num_train_timesteps": COUNT, "shift": POSITIVE, "use_dynamic_shifting": FLAG}
_EDM: dict[str, Rule] = dict.fromkeys(("sigma_min", "sigma_max", "sigma_data", "rho"), POSITIVE) | {
    "num_train_timesteps": COUNT
}
Settings = tuple[dict[str, Any], list[str]]


def flow(scheduler: Mapping[str, Any], *, sampler: str) -> Settings:
    """Our settings for those of a scheduler of flow matching, and notes about them for the user.

    Args:
      scheduler: the settings in its file.
      sampler: ours in its place.

    Raises:
      UserError: our configuration cannot express it.
    """
    check_values(_FILE, scheduler, _FLOW)
    steps, shift = scheduler.get("num_train_timesteps", 1000), scheduler.get("shift", 1.0)
    shifts = shift != 1 or scheduler.get("use_dynamic_shifting", False)
    notes = ["its shift spaces the steps only; here they are evenly spaced unless --grid says otherwise"] * bool(shifts)
    return {
        "diffusion.num_timesteps": steps,
        "diffusion.schedule": "straight",
        "diffusion.target": "flow",
        "loss.weight": "flow",
        "model.time_offset": 1.0,
        "model.time_scale": 1.0,
        "sample.sampler": sampler,
        "sample.clip_x_0": False,
    }, notes


def edm(scheduler: Mapping[str, Any], *, sampler: str) -> Settings:
    """Our settings for those of a scheduler of EDM, and notes about them for the user, as `flow`.

    Raises:
      UserError: our configuration cannot express it.
    """
    check_values(_FILE, scheduler, _EDM)
    predicts = scheduler.get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise UserError(f"{_FILE}: prediction_type={shown(predicts)} is not supported with EDM's preconditioning")
    steps, sigma_data = scheduler.get("num_train_timesteps", 1000), scheduler.get("sigma_data", 0.5)
    low, high = (math.log(scheduler.get(key, usual)) for key, usual in (("sigma_min", 0.002), ("sigma_max", 80.0)))
    if steps < 2 or not low < high:
        raise UserError(f"{_FILE}: sigma_min must be less than sigma_max, and num_train_timesteps at least 2")
    per_step = (high - low) / (steps - 1)  # of ln(sigma)
    karras = scheduler.get("sigma_schedule", "karras") == "karras"
    notes = [f"its rho={scheduler['rho']:g} is 7 here"] if karras and scheduler.get("rho", 7.0) != 7 else []
    return {
        "diffusion.num_timesteps": steps,
        "diffusion.schedule": "log_snr",
        "diffusion.log_snr_first": -2 * low,
        "diffusion.log_snr_last": -2 * high,
        "diffusion.target": "edm",
        "diffusion.sigma_data": float(sigma_data),
        "loss.weight": "edm",
        "loss.times": "log_normal",
        "model.time_offset": low / per_step,
        "model.time_scale": per_step / 4,
        "sample.sampler": sampler,
        "sample.grid": "karras" if karras else "log_snr",
        "sample.clip_x_0": False,
    }, notes


CONTINUOUS: dict[str, Callable[[Mapping[str, Any]], Settings]] = {
    "FlowMatchEulerDiscreteScheduler": lambda scheduler: flow(scheduler, sampler="ddim"),
    "FlowMatchHeunDiscreteScheduler": lambda scheduler: flow(scheduler, sampler="heun"),
    "EDMEulerScheduler": lambda scheduler: edm(scheduler, sampler="ddim"),
    "EDMDPMSolverMultistepScheduler": lambda scheduler: edm(scheduler, sampler="dpm_solver_pp_2m"),
}
"""From the names of these schedulers to functions from their settings to ours."""

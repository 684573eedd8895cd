"""Samplers: methods for the reverse process, one file per family, and the one scan that runs them all (`driver.py`)."""

from ddpm_jax.diffusion.samplers.ancestral import Variance, ancestral, p_mean_log_var, p_sample
from ddpm_jax.diffusion.samplers.churn import churn, restart
from ddpm_jax.diffusion.samplers.consistency import consistency
from ddpm_jax.diffusion.samplers.ddim import ddim, ddim_inverse, ddim_step
from ddpm_jax.diffusion.samplers.driver import Advanced, Sampler, SamplerState, StepInfo, advance, sample
from ddpm_jax.diffusion.samplers.langevin import annealed_langevin, langevin_corrector, langevin_step
from ddpm_jax.diffusion.samplers.mean_flow import mean_flow
from ddpm_jax.diffusion.samplers.multistep import adams_bashforth, deis, dpm_solver_pp_2m, dpm_solver_pp_3m
from ddpm_jax.diffusion.samplers.ode import heun, ode_coordinates, ode_derivative
from ddpm_jax.diffusion.samplers.repaint import repaint
from ddpm_jax.diffusion.samplers.sde import euler_maruyama
from ddpm_jax.diffusion.samplers.unipc import unipc

__all__ = [
    "Advanced",
    "Sampler",
    "SamplerState",
    "StepInfo",
    "Variance",
    "adams_bashforth",
    "advance",
    "ancestral",
    "annealed_langevin",
    "churn",
    "consistency",
    "ddim",
    "ddim_inverse",
    "ddim_step",
    "deis",
    "dpm_solver_pp_2m",
    "dpm_solver_pp_3m",
    "euler_maruyama",
    "heun",
    "langevin_corrector",
    "langevin_step",
    "mean_flow",
    "ode_coordinates",
    "ode_derivative",
    "p_mean_log_var",
    "p_sample",
    "repaint",
    "restart",
    "sample",
    "unipc",
]

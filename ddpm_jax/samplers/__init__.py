"""Samplers: ways down the reverse chain, one file a family, and the one scan that drives them all (`driver.py`)."""

from ddpm_jax.samplers.ancestral import Variance, ancestral, p_mean_log_var, p_sample
from ddpm_jax.samplers.driver import Sampler, SamplerState, advance, sample

__all__ = [
    "Sampler",
    "SamplerState",
    "Variance",
    "advance",
    "ancestral",
    "p_mean_log_var",
    "p_sample",
    "sample",
]

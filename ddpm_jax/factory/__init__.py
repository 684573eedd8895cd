"""From a configuration to objects: the only package that holds tables of names.

Every function takes the whole configuration. A name that is not in its table, or a size that does not fit, is a
UserError that names the key.
"""

from ddpm_jax.factory.chains import (
    GRIDS,
    SAMPLERS,
    SCHEDULES,
    VARIANCES,
    ChainProgram,
    Guidance,
    chain_program,
    check_sampling,
    guidance,
    noise_schedule,
    sampler,
    sampler_settings,
    sampling_transitions,
    variance,
)
from ddpm_jax.factory.given import check_callable, check_input, check_sampler, checked_hooks, checked_sinks, described
from ddpm_jax.factory.models import (
    RANDOM_WEIGHTS,
    TARGETS,
    TASKS,
    classifier,
    classifier_samples,
    denoiser,
    initial_params,
    labels,
    network,
)
from ddpm_jax.factory.objectives import (
    LOSSES,
    TIMES,
    WEIGHTS,
    learning_rate,
    objective,
    optimizer,
    state_init,
    train_spec,
)
from ddpm_jax.factory.sinks import SINKS, sinks
from ddpm_jax.factory.sources import SOURCES, Parts, fitted, of_split, parts, source

__all__ = [
    "GRIDS",
    "LOSSES",
    "RANDOM_WEIGHTS",
    "SAMPLERS",
    "SCHEDULES",
    "SINKS",
    "SOURCES",
    "TARGETS",
    "TASKS",
    "TIMES",
    "VARIANCES",
    "WEIGHTS",
    "ChainProgram",
    "Guidance",
    "Parts",
    "chain_program",
    "check_callable",
    "check_input",
    "check_sampler",
    "check_sampling",
    "checked_hooks",
    "checked_sinks",
    "classifier",
    "classifier_samples",
    "denoiser",
    "described",
    "fitted",
    "guidance",
    "initial_params",
    "labels",
    "learning_rate",
    "network",
    "noise_schedule",
    "objective",
    "of_split",
    "optimizer",
    "parts",
    "sampler",
    "sampler_settings",
    "sampling_transitions",
    "sinks",
    "source",
    "state_init",
    "train_spec",
    "variance",
]

"""Denoising diffusion in JAX: the equations as pure functions, a U-Net, and the jobs that train it and sample from it.

The packages in their order, each of which imports only from those before it: `errors.py`; `diffusion/`, the
mathematics (read `schedules.py`, `gaussian.py`, `prediction.py`, `guidance.py`, `losses.py`, `samplers/`); `models/`,
the networks; `metrics/`; `runtime/`, devices and files; `config.py`; `data/`; `training/`, the training of a run
(`step.py` is the train step); `factory/`, which makes objects from a configuration; `runs/`, which opens a trained run;
`evaluation/`; `jobs/`; `commands/`, the programs; `convert/`, which converts the weights of other projects.

This package provides everything that a notebook needs:

    import ddpm_jax as dj
    config = dj.experiment("digits")
    dj.train(config, "runs/digits")
    dj.picture(dj.Run("runs/digits").draw(64))

An import loads only the mathematics and the networks. A job, with the libraries that it needs, is loaded when its name
is first used.
"""

import importlib
from typing import Any

from ddpm_jax.diffusion import analytic, bayes, time_sampling, timesteps
from ddpm_jax.diffusion.arrays import expand_like, image_keys, noise_like, stream
from ddpm_jax.diffusion.gaussian import discretized_log_prob_nats, normal_kl_nats, q_posterior, q_sample, q_step
from ddpm_jax.diffusion.guidance import (
    classifier_free,
    classifier_guided,
    clip_x_0,
    hide_labels,
    in_one_batch,
    label_log_prob,
    side_by_side,
)
from ddpm_jax.diffusion.likelihood import (
    bits_per_dim,
    bound_term,
    bound_terms,
    density_to_bits_per_dim,
    exact_trace,
    hutchinson_trace,
    ode_bound_nats,
    ode_log_prob_nats,
    prior_term_nats,
)
from ddpm_jax.diffusion.losses import (
    Loss,
    cross_entropy,
    eps_weight,
    l_hybrid,
    l_simple,
    l_vlb,
    min_snr_weight,
    p2_weight,
    v_weight,
    x_0_weight,
)
from ddpm_jax.diffusion.prediction import (
    Denoiser,
    Prediction,
    Target,
    as_classifier,
    as_denoiser,
    edm_denoiser,
    eps_from_score,
    eps_from_x_0,
    score,
    velocity,
    x_0_from_eps,
)
from ddpm_jax.diffusion.samplers import (
    Sampler,
    SamplerState,
    StepInfo,
    Variance,
    advance,
    ancestral,
    annealed_langevin,
    ddim,
    ddim_inverse,
    dpm_solver_pp_2m,
    euler_maruyama,
    heun,
    langevin_corrector,
    langevin_step,
    p_mean_log_var,
    p_sample,
    repaint,
    sample,
)
from ddpm_jax.diffusion.schedules import (
    NoiseLevel,
    NoiseSchedule,
    Transition,
    cosine,
    from_betas,
    linear,
    quadratic,
    sigmoid,
)
from ddpm_jax.diffusion.spectrum import band_power, forward_power, settling_time
from ddpm_jax.errors import UserError
from ddpm_jax.models import Architecture, Classifier, UNet

__version__ = "0.1.0"  # also the version of the distribution: pyproject.toml reads it here

_LATER: dict[str, tuple[str, ...]] = {
    "config": ("experiment",),
    "convert.incoming": ("import_weights",),
    "convert.outgoing": ("export_diffusers",),
    "data": ("ArrayImages", "Digits", "ImageFolder", "Source", "batches", "load"),
    "evaluation.evaluate": ("evaluate", "table"),
    "evaluation.plots": ("live_loss",),
    "jobs.train": ("train",),
    "metrics.precision_recall": ("precision_recall",),
    "models.layers": ("timestep_embedding",),
    "runs.editing": ("Flow", "flow", "interpolate", "interpolation", "read_mask", "read_picture", "spherical"),
    "runs.run": ("Run",),
    "runs.sampling": ("sample_run", "sample_trajectory"),
    "runtime.images": ("from_uint8", "grid", "picture", "save_gif", "save_png", "to_uint8"),
    "training.log": ("read_log",),
    "training.loop": ("Hook",),
    "training.state": ("TrainState",),
    "training.step": ("TrainSpec", "train_step"),
}
_MODULES = {"config": "config", "data": "data", "factory": "factory", "plots": "evaluation.plots"}  # loaded later too
_HOME = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a job, or a module of jobs, when its name is first used (PEP 562)."""
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaded = importlib.import_module(f"{__name__}.{_HOME.get(name) or _MODULES[name]}")
    globals()[name] = getattr(loaded, name) if name in _HOME else loaded
    return globals()[name]


def __dir__() -> list[str]:
    """Every public name, loaded or not, for completion."""
    names = {*globals(), *_HOME, *_MODULES} - {"importlib", "Any"}
    return sorted(name for name in names if not name.startswith("_"))

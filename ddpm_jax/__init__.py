"""Denoising diffusion in JAX: the equations as pure functions, a U-Net, and the jobs that train it and sample from it.

Read in this order: `schedule.py` (how much noise), `gaussian.py` (the forward process and its posterior),
`prediction.py` (what a network says), `guidance.py` (what may be made of that), `losses.py` (what it learns from),
`samplers/` (the way back), `models/` (the network), `step.py` (the train step). The jobs are `training.py`,
`run.py`, `sampling.py`, `editing.py` and `evaluation.py`; `build/` makes objects of a configuration.

Everything a notebook needs is one dot away:

    import ddpm_jax as dj
    config = dj.experiment("digits")
    dj.train(config, "runs/digits")
    dj.picture(dj.Run("runs/digits").draw(64))

The mathematics is loaded at once, the jobs, with the libraries that they need, when their names are first asked for.
"""

import importlib

from ddpm_jax import bayes, grids, oracles, times
from ddpm_jax.arrays import image_keys, noise_like, stream
from ddpm_jax.errors import UserError
from ddpm_jax.gaussian import discretized_log_prob_nats, normal_kl_nats, q_posterior, q_sample, q_step
from ddpm_jax.guidance import (
    classifier_free,
    classifier_guided,
    clip_x_0,
    hide_labels,
    in_one_batch,
    label_log_prob,
    side_by_side,
)
from ddpm_jax.likelihood import (
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
from ddpm_jax.losses import (
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
from ddpm_jax.models import Architecture, Classifier, UNet
from ddpm_jax.prediction import (
    Denoiser,
    Prediction,
    Target,
    as_classifier,
    as_denoiser,
    eps_from_score,
    eps_from_x_0,
    score,
    velocity,
    x_0_from_eps,
)
from ddpm_jax.samplers import (
    Sampler,
    SamplerState,
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
from ddpm_jax.schedule import (
    NoiseLevel,
    NoiseSchedule,
    Transition,
    cosine,
    from_betas,
    linear,
    quadratic,
    sigmoid,
)
from ddpm_jax.spectrum import band_power, forward_power, settling_time

__version__ = "0.1.0"  # of the distribution too: pyproject.toml reads it here

_LATER = {
    "build": (),
    "config": ("experiment",),
    "convert.incoming": ("import_weights",),
    "convert.outgoing": ("export_diffusers",),
    "data": ("Digits", "ImageFolder", "load"),
    "editing": ("Flow", "flow", "interpolate", "interpolation", "read_mask", "read_picture", "spherical"),
    "evaluation": ("evaluate", "table"),
    "images": ("from_uint8", "grid", "picture", "save_gif", "save_png", "to_uint8"),
    "logging": ("read_log",),
    "metrics.precision_recall": ("precision_recall",),
    "models.layers": ("timestep_embedding",),
    "plots": ("live_loss",),
    "run": ("Run",),
    "sampling": ("sample_run", "sample_trajectory"),
    "training": ("train",),
}
_HOME = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name):
    """Loads a job, or a module of jobs, when it is first asked for (PEP 562)."""
    module = _HOME.get(name, name)
    if module not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaded = importlib.import_module(f"{__name__}.{module}")
    globals()[name] = getattr(loaded, name) if name in _HOME else loaded
    return globals()[name]


def __dir__():
    """Every public name, loaded or not, for completion."""
    names = {*globals(), *_HOME, *_LATER} - {"importlib"}
    return sorted(name for name in names if not name.startswith("_") and "." not in name)

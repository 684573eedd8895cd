"""Denoising diffusion in JAX: the equations as pure functions, a U-Net, and the jobs that train it and sample from it.

The packages in their order, each of which imports only from those before it: `errors.py`; `diffusion/`, the
mathematics (read `schedules.py`, `gaussian.py`, `prediction.py`, `guidance.py`, `losses.py`, `samplers/`); `models/`,
the networks; `metrics/`; `runtime/`, devices and files; `config/`; `data/`; `training/`, the training of a run
(`step.py` is the train step); `factory/`, which makes objects from a configuration; `runs/`, which opens a trained run;
`convert/`, which converts the weights of other projects; `evaluation/`; `jobs/`; `commands/`, the programs.

This package provides everything that a notebook needs:

    import ddpm_jax as dj
    config = dj.experiment("digits")
    dj.train(config, "runs/digits")
    dj.picture(dj.Run("runs/digits").sample(64))

The names here are those of the common path; the rest is one module deeper: `dj.schedules.cosine`, `dj.samplers.heun`,
`dj.losses.l_hybrid`. An import loads only the mathematics and the networks. A job, with the libraries that it needs, is
loaded when its name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ddpm_jax.diffusion import (
    analytic,
    bayes,
    distillation,
    gaussian,
    guidance,
    likelihood,
    losses,
    ode_likelihood,
    prediction,
    samplers,
    schedules,
    sequences,
    spectrum,
    time_sampling,
    timesteps,
)
from ddpm_jax.diffusion.arrays import expand_like, image_keys, noise_like, stream
from ddpm_jax.diffusion.gaussian import q_posterior, q_sample, q_step
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.diffusion.prediction import Denoiser, Prediction, Target, as_denoiser, edm_denoiser
from ddpm_jax.diffusion.samplers import Sampler, SamplerState, StepInfo, Variance, p_sample, sample
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition
from ddpm_jax.errors import UserError
from ddpm_jax.models import Architecture, Classifier, UNet

if TYPE_CHECKING:  # the names of _LATER and _MODULES, for type checkers and editors
    from ddpm_jax import config, data, factory, metrics
    from ddpm_jax.config import experiment
    from ddpm_jax.convert.incoming import import_weights
    from ddpm_jax.convert.outgoing import export_diffusers
    from ddpm_jax.data import ArrayImages, Digits, ImageFolder, Source, batches, load
    from ddpm_jax.evaluation import plots
    from ddpm_jax.evaluation.comparison import measure
    from ddpm_jax.evaluation.evaluate import evaluate, table
    from ddpm_jax.evaluation.playground import play
    from ddpm_jax.evaluation.report.writing import write_report
    from ddpm_jax.jobs.train import train
    from ddpm_jax.metrics.precision_recall import precision_recall
    from ddpm_jax.models.layers import timestep_embedding
    from ddpm_jax.runs import editing
    from ddpm_jax.runs.run import Run
    from ddpm_jax.runs.sampling import sample_run, sample_trajectory
    from ddpm_jax.runtime import images
    from ddpm_jax.runtime.images import from_uint8, picture, to_uint8
    from ddpm_jax.training.log import read_log
    from ddpm_jax.training.loop import Hook
    from ddpm_jax.training.sinks import Sink
    from ddpm_jax.training.state import TrainState
    from ddpm_jax.training.step import TrainSpec, train_step

__version__ = "0.1.0"  # also the version of the distribution: pyproject.toml reads it here

_LATER: dict[str, tuple[str, ...]] = {
    "config": ("experiment",),
    "convert.incoming": ("import_weights",),
    "convert.outgoing": ("export_diffusers",),
    "data": (
        "ArrayImages",
        "Digits",
        "ImageFolder",
        "Source",
        "batches",
        "load",
    ),
    "evaluation.comparison": ("measure",),
    "evaluation.evaluate": (
        "evaluate",
        "table",
    ),
    "evaluation.playground": ("play",),
    "evaluation.report.writing": ("write_report",),
    "jobs.train": ("train",),
    "metrics.precision_recall": ("precision_recall",),
    "models.layers": ("timestep_embedding",),
    "runs.run": ("Run",),
    "runs.sampling": (
        "sample_run",
        "sample_trajectory",
    ),
    "runtime.images": (
        "from_uint8",
        "picture",
        "to_uint8",
    ),
    "training.log": ("read_log",),
    "training.loop": ("Hook",),
    "training.sinks": ("Sink",),
    "training.state": ("TrainState",),
    "training.step": (
        "TrainSpec",
        "train_step",
    ),
}
_MODULES = {  # loaded later too
    "config": "config",
    "data": "data",
    "editing": "runs.editing",
    "factory": "factory",
    "images": "runtime.images",
    "metrics": "metrics",
    "plots": "evaluation.plots",
}
_HOME = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "Architecture",
    "ArrayImages",
    "Classifier",
    "Denoiser",
    "Digits",
    "Hook",
    "ImageFolder",
    "Loss",
    "NoiseLevel",
    "NoiseSchedule",
    "Prediction",
    "Run",
    "Sampler",
    "SamplerState",
    "Sink",
    "Source",
    "StepInfo",
    "Target",
    "TrainSpec",
    "TrainState",
    "Transition",
    "UNet",
    "UserError",
    "Variance",
    "analytic",
    "as_denoiser",
    "batches",
    "bayes",
    "config",
    "data",
    "distillation",
    "editing",
    "edm_denoiser",
    "evaluate",
    "expand_like",
    "experiment",
    "export_diffusers",
    "factory",
    "from_uint8",
    "gaussian",
    "guidance",
    "image_keys",
    "images",
    "import_weights",
    "likelihood",
    "load",
    "losses",
    "measure",
    "metrics",
    "noise_like",
    "ode_likelihood",
    "p_sample",
    "picture",
    "play",
    "plots",
    "precision_recall",
    "prediction",
    "q_posterior",
    "q_sample",
    "q_step",
    "read_log",
    "sample",
    "sample_run",
    "sample_trajectory",
    "samplers",
    "schedules",
    "sequences",
    "spectrum",
    "stream",
    "table",
    "time_sampling",
    "timestep_embedding",
    "timesteps",
    "to_uint8",
    "train",
    "train_step",
    "write_report",
]

if not TYPE_CHECKING:  # for whom a name that is not there would be of any type

    def __getattr__(name: str) -> Any:
        """Loads a job, or a module of jobs, when its name is first used (PEP 562)."""
        if name not in _HOME and name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        loaded = importlib.import_module(f"{__name__}.{_HOME.get(name) or _MODULES[name]}")
        globals()[name] = getattr(loaded, name) if name in _HOME else loaded
        return globals()[name]


def __dir__() -> list[str]:
    """Every public name, loaded or not, for completion."""
    names = {*globals(), *_HOME, *_MODULES} - {"importlib", "Any", "TYPE_CHECKING"}
    return sorted(name for name in names if not name.startswith("_"))

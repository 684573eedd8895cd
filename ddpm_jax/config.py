"""Configurations: experiments by name, numbers in range, JSON as it is stored with a run and compared on resuming.

The keys themselves, with a comment each, are in `configs/base.py`. The repository's folder `configs/` is installed as
`ddpm_jax/experiments`.
"""

import difflib
import importlib.util
import json
import math
from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax.errors import UserError, listed, shortened
from ddpm_jax.runtime.paths import expanded

# What a checkpoint's meaning depends on. The rest (learning rate, dropout, number of steps, logging) may change between
# two starts; where the data lies and how it is read may too.
_FIXED = ("task", "seed", "data", "labels", "diffusion", "model", "posterior.weights", "loss.times")
_FREE = ("data.path", "data.on_device", "data.num_workers", "data.skip_unreadable", "model.dropout")

# At least 1.
_COUNTS = [
    "data.image_size",
    "diffusion.num_timesteps",
    "model.channels",
    "model.num_res_blocks",
    "model.num_heads",
    "model.norm_groups",
    "posterior.num_samples",
    "posterior.samples_per_step",
    "train.batch_size",
    "train.num_steps",
    "train.accumulation",
    "mesh.fsdp",
    "checkpoint.every",
    "checkpoint.keep",
    "log.every",
    "log.preview_images",
    "log.preview_steps",
]
_NOT_NEGATIVE = [
    "data.num_workers",
    "labels.num_classes",
    "model.head_channels",
    "model.norm_epsilon",
    "loss.vlb_weight",
    "optim.learning_rate",
    "optim.warmup_steps",
    "optim.grad_clip",
    "optim.epsilon",
    "sample.num_steps",
    "sample.guidance_scale",
    "sample.classifier_scale",
    "sample.corrector_steps",
    "sample.corrector_snr",
    "checkpoint.every_minutes",
    "checkpoint.keep_every",
    "log.preview_every",
]
_POSITIVE = ["model.time_scale", "posterior.prior_std", "posterior.init_std"]
# From 0 to below 1.
_FRACTIONS = ["labels.dropout", "model.dropout", "optim.beta_1", "optim.beta_2", "optim.ema_decay"]
# Tuples of them.
_INTEGERS = ["model.channel_mult", "model.attention_resolutions", "data.crop"]
_NAMES = ["labels.names"]
_PATHS = ["data.path"]

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "configs")  # of an installed wheel; of a clone
EXPERIMENTS = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


def experiment_names() -> list[str]:
    """The names of all experiments, sorted."""
    return sorted(path.stem for path in EXPERIMENTS.glob("[!_]*.py"))


def experiment_file(name: str) -> Path:
    """The file of the experiment that is called `name`.

    Raises:
      UserError: there is no such experiment; the message suggests one.
    """
    known = experiment_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"there is no experiment {name!r}; {hint}")
    return EXPERIMENTS / f"{name}.py"


def experiment(name: str) -> ConfigDict:
    """The configuration that the experiment `name` defines, as `get_config()` of `configs/NAME.py` returns it.

    Args:
      name: such as "digits".

    Returns:
      A locked `ConfigDict`; its keys are set like attributes, `config.train.num_steps = 500`.

    Raises:
      UserError: there is no such experiment.
    """
    spec = importlib.util.spec_from_file_location(f"ddpm_jax.experiments.{name}", experiment_file(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def check_ranges(config):
    """Raises a UserError that names the first key whose number makes no sense."""
    flat = flatten(config)
    rules = (
        (_COUNTS, lambda value: value >= 1, "must be at least 1"),
        (_NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "must be 0 or a number above it"),
        (_POSITIVE, lambda value: 0 < value < math.inf, "must be above 0"),
        (_FRACTIONS, lambda value: 0 <= value < 1, "must lie from 0 to below 1"),
        (_INTEGERS, lambda value: all(isinstance(item, int) for item in value), "must hold whole numbers"),
        (_NAMES, lambda value: all(isinstance(item, str) for item in value), "must hold names"),
        (_NAMES, lambda value: len(set(value)) == len(value), "must hold each name once"),
        (_NAMES, lambda value: len(value) in (0, config.labels.num_classes), "must name each of labels.num_classes"),
        (["model.channel_mult"], lambda value: value and min(value) >= 1, "needs at least 1 for each level"),
    )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed} must lie from 0 to below 2**32")
    for keys, fits, rule in rules:
        for key in keys:
            if not fits(flat[key]):
                raise UserError(f"config.{key}={shortened(repr(flat[key]))} {rule}")
    for key in _PATHS:
        if flat[key]:
            expanded(flat[key])


def to_json(config):
    """The configuration as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())


def completed(stored: dict) -> dict:
    """A stored configuration with every key that has come since it was written, at its default.

    Raises:
      UserError: it has keys that this version lacks.
    """
    base = to_json(experiment("base"))
    unknown = sorted(flatten(stored).keys() - flatten(base).keys())
    if unknown:
        raise UserError(
            f"the run's configuration has keys that this version does not know ({listed(unknown, 4)}): a newer "
            "version wrote it; update ddpm_jax"
        )

    def fill(defaults, values):
        nested = {key: fill(value, values.get(key, {})) for key, value in defaults.items() if isinstance(value, dict)}
        return {**defaults, **values, **nested}

    return fill(base, stored)


def from_json(stored: dict) -> ConfigDict:
    """The locked configuration of `to_json`'s result, of this version or an earlier one; raises as `completed`."""

    def restore(value):
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(restore(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(restore(completed(stored))).lock()


def flatten(config, prefix=""):
    """A nested dict or ConfigDict as `{"model.channels": 128, ...}`."""
    flat = {}
    for key, value in config.items():
        nested = isinstance(value, dict | ConfigDict)
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value})
    return flat


def changes(stored, current):
    """Keys whose values differ between two nested dicts of plain JSON types: `{key: (stored, current)}`."""
    old, new = flatten(stored), flatten(current)
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}


def in_words(changed):
    """What `changes` found, for a message."""
    short = lambda value: shortened(repr(value), 80)
    words = [f"{key} is {short(old)} there and {short(new)} here" for key, (old, new) in changed.items()]
    return ", ".join(words[:6]) + (f", and {len(words) - 6} more keys" if len(words) > 6 else "")


def check_resumable(stored, config, *, workdir):
    """Returns the harmless differences between a run's configuration and the one asked for.

    A key that is newer than the run had its default there. Names of classes differ only where both have some.

    Raises:
      UserError: the work directory holds another model or other data; the message names the keys.
    """
    stored = completed(stored)
    differing, free = changes(stored, to_json(config)), set(_FREE)
    if not (stored["labels"]["names"] and config.labels.names):
        differing.pop("labels.names", None)
    if stored["data"]["source"] == "folder" and not stored["data"]["path"]:  # converted weights: any images will do
        free |= {f"data.{key}" for key in stored["data"] if key not in ("image_size", "channels")}
    clashes = {k: v for k, v in differing.items() if {k, k.split(".")[0]} & set(_FIXED) and k not in free}
    if clashes:
        raise UserError(
            f"{workdir} holds another run: {in_words(clashes)}; choose another --workdir or the same values"
        )
    return differing

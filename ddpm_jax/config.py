"""Configurations: experiments by name, checks of ranges, and JSON, which is stored with a run and compared on resuming.

The keys themselves, with a comment each, are in `configs/base.py`. The repository's folder `configs/` is installed as
`ddpm_jax/experiments`.
"""

import difflib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flax import traverse_util
from ml_collections import ConfigDict

from ddpm_jax.errors import UserError, listed, shortened
from ddpm_jax.runtime.paths import expanded

# The keys that a checkpoint's meaning depends on. The others (learning rate, dropout, number of steps, logging) may
# change between two starts, and so may the place of the data and the way of reading it.
_FIXED = ("task", "seed", "data", "labels", "diffusion", "network", "model", "posterior.weights", "loss.times")
_FREE = ("data.path", "data.on_device", "data.num_workers", "data.skip_unreadable", "model.dropout")

# Keys whose values are at least 1.
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
# Keys whose values are from 0 to below 1.
_FRACTIONS = ["labels.dropout", "model.dropout", "optim.beta_1", "optim.beta_2", "optim.ema_decay"]
# Keys whose values are tuples of integers, and of names.
_INTEGERS = ["model.channel_mult", "model.attention_resolutions", "data.crop"]
_NAMES = ["labels.names"]
_PATHS = ["data.path"]

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "configs")  # in an installed wheel; in a clone
EXPERIMENTS = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])

Changes: TypeAlias = dict[str, tuple[Any, Any]]
"""The keys whose values differ between two configurations, each with both values: `{key: (stored, current)}`."""


def experiment_names() -> list[str]:
    """The names of all experiments, sorted."""
    return sorted(path.stem for path in EXPERIMENTS.glob("[!_]*.py"))


def experiment_file(name: str) -> Path:
    """The file of the experiment `name`.

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
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def check_ranges(config: ConfigDict) -> None:
    """Raises a UserError that names the first key whose value is out of its range."""
    flat = flatten(config)
    rules: tuple[tuple[list[str], Callable[[Any], object], str], ...] = (
        (_COUNTS, lambda value: value >= 1, "must be at least 1"),
        (_NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "must be 0 or a positive number"),
        (_POSITIVE, lambda value: 0 < value < math.inf, "must be greater than 0"),
        (_FRACTIONS, lambda value: 0 <= value < 1, "must be at least 0 and less than 1"),
        (_INTEGERS, lambda value: all(isinstance(item, int) for item in value), "must contain only whole numbers"),
        (_NAMES, lambda value: all(isinstance(item, str) for item in value), "must contain only names"),
        (_NAMES, lambda value: len(set(value)) == len(value), "must contain each name only once"),
        (_NAMES, lambda value: len(value) in (0, config.labels.num_classes), "must contain one name for each class"),
        (
            ["model.channel_mult"],
            lambda value: value and min(value) >= 1,
            "must contain a number of at least 1 for each level",
        ),
    )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed} must be at least 0 and less than 2**32")
    for keys, fits, rule in rules:
        for key in keys:
            if not fits(flat[key]):
                raise UserError(f"config.{key}={shortened(repr(flat[key]))} {rule}")
    for key in _PATHS:
        if flat[key]:
            expanded(flat[key])


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration, to which every key that is newer than it is added with its default.

    Raises:
      UserError: it has keys that this version does not have.
    """
    base = to_json(experiment("base"))
    unknown = sorted(flatten(stored).keys() - flatten(base).keys())
    if unknown:
        raise UserError(
            f"the run's configuration has keys that this version does not know ({listed(unknown, 4)}): it was "
            "written by a newer version; update ddpm_jax"
        )

    def fill(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        nested = {key: fill(value, values.get(key, {})) for key, value in defaults.items() if isinstance(value, dict)}
        return {**defaults, **values, **nested}

    return fill(base, stored)


def from_json(stored: dict[str, Any]) -> ConfigDict:
    """The locked configuration from the result of `to_json` of this or an earlier version.

    Raises:
      UserError: as `completed`.
    """

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(restore(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(restore(completed(stored))).lock()


def flatten(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """A nested dict or ConfigDict as `{"model.channels": 128, ...}`."""
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return traverse_util.flatten_dict(nested, sep=".")


def changes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> Changes:
    """The differences between two nested dicts of plain JSON types; a missing value is None."""
    old, new = flatten(stored), flatten(current)
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}


def in_words(changed: Changes) -> str:
    """The result of `changes` as text for a message."""
    short = lambda value: shortened(repr(value), 80)
    words = [f"{key} is {short(old)} there and {short(new)} here" for key, (old, new) in changed.items()]
    return ", ".join(words[:6]) + (f", and {len(words) - 6} more keys" if len(words) > 6 else "")


def check_resumable(stored: dict[str, Any], config: ConfigDict, *, workdir: str | os.PathLike[str]) -> Changes:
    """The harmless differences between the stored configuration of a run and a new one.

    A key that is newer than the run counts as stored with its default. Names of classes are compared only if both
    configurations have them.

    Raises:
      UserError: the work directory contains another model or other data; the message names the keys.
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

"""Checks of a configuration against the schema: its keys, their values, and keys that have no effect."""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config.keys import CUSTOM
from ddpm_jax.config.loading import experiment, experiment_names, flatten
from ddpm_jax.config.schema import KEYS
from ddpm_jax.errors import UserError, did_you_mean, listed, shortened
from ddpm_jax.runtime.paths import expanded

_PATHS = ("data.path",)


def not_one_of(value: object, choices: Iterable[str]) -> str:
    """The end of a message about a value that is none of the names `choices`, with the nearest of them."""
    choices = list(choices)
    hint = did_you_mean(str(value), choices)
    return f"is not one of: {', '.join(choices)}" + (f"; {hint}" if hint else "")


def problem(path: str, value: Any) -> str:
    """What is wrong with the value of a key, as the end of a message; "" if it obeys the schema."""
    key = KEYS[path]
    if key.choices and value not in key.choices:
        return not_one_of(value, key.choices)
    return "" if key.rule is None or key.rule.fits(value) else f"must {key.rule.words}"


def unknown_key(path: str) -> str:
    """The end of a message about a key that does not exist: the nearest one, also by the last part of its path."""
    last = path.rpartition(".")[2]
    same = [known for known in KEYS if known.rpartition(".")[2] == last]
    hint = " or ".join(map(repr, same[:3])) if same else ""
    hint = f"did you mean {hint}?" if hint else did_you_mean(path, KEYS) or did_you_mean(last, KEYS)
    return f"there is no configuration key {path!r}; {hint or 'see docs/configuration.md'}"


def check_ranges(config: ConfigDict) -> None:
    """Checks that a configuration has the keys of the schema, and that their values obey its rules and choices.

    Raises:
      UserError: names the first key that does not.
    """
    flat = flatten(config)
    unknown, missing = sorted(flat.keys() - KEYS.keys()), sorted(KEYS.keys() - flat.keys())
    if unknown:
        raise UserError(f"config.{unknown[0]}: {unknown_key(unknown[0])}")
    if missing:
        raise UserError(f"the configuration has no {listed(missing, 4)}: start from experiment('base')")
    for path in KEYS:
        if wrong := problem(path, flat[path]):
            raise UserError(f"config.{path}={shortened(repr(flat[path]))} {wrong}")
    names = config.labels.names
    if len(names) not in (0, config.labels.num_classes):
        raise UserError(f"config.labels.names={shortened(repr(names))} must contain one name for each class")
    for path in _PATHS:
        if flat[path]:
            expanded(flat[path])


def ignored(config: ConfigDict) -> list[str]:
    """A line for every key that is set and has no effect, because another key has a value with which it is ignored.

    A key is set if its value is neither the default nor that of the experiment of the configuration's name.
    """
    flat = flatten(config)
    usual = flatten(experiment(config.name)) if config.name in experiment_names() else flat
    lines = []
    for path, key in KEYS.items():
        value = flat[path]
        if value in (key.default, CUSTOM) or (usual is not flat and value == usual[path]):
            continue
        unmet = [need for need in key.needs if not need.holds(flat[need.key])]
        if unmet:
            need = unmet[0]
            lines.append(
                f"config.{path}={shortened(repr(value))} has no effect with config.{need.key}={flat[need.key]!r}: it "
                f"needs {need.key}{need.words}; change one of them, or leave {path} at {key.default!r}"
            )
    return lines

"""Checks of a configuration against the schema: its keys, their values, and keys that have no effect."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config.keys import CUSTOM, Needs
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
    if key.choices and type(key.default) is tuple:
        unknown = [name for name in value if name not in key.choices]
        if unknown:
            return f"has {unknown[0]!r}, which {not_one_of(unknown[0], key.choices)}"
    elif key.choices and value not in key.choices:
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


def unmet_needs(path: str, flat: Mapping[str, Any]) -> list[Needs]:
    """The conditions of a key that a flat configuration does not meet; without them the key changes nothing."""
    return [need for need in KEYS[path].needs if not need.holds(flat[need.key])]


def keys_set(config: ConfigDict) -> list[str]:
    """The keys whose value is neither the default nor that of the experiment of the configuration's name."""
    flat = flatten(config)
    usual = flatten(experiment(config.name)) if config.name in experiment_names() else {}
    unset = lambda path: flat[path] in (KEYS[path].default, CUSTOM) or (path in usual and flat[path] == usual[path])
    return [path for path in KEYS if not unset(path)]


def ignored(config: ConfigDict) -> list[str]:
    """A line for the keys that are set and have no effect, because another key has a value with which they are ignored.

    Keys that need the same value of the same key share a line.
    """
    flat, without_effect = flatten(config), dict[tuple[str, str], list[str]]()
    for path in keys_set(config):
        for need in unmet_needs(path, flat)[:1]:
            cause = f"config.{need.key}={flat[need.key]!r}", f"{need.key}{need.words}"
            without_effect.setdefault(cause, []).append(path)
    return [no_effect(config, paths, *cause) for cause, paths in without_effect.items()]


def no_effect(config: ConfigDict, paths: Sequence[str], cause: str, need: str) -> str:
    """The line of `ignored` for these keys: `cause` says why they have no effect, `need` what would give them one."""
    flat = flatten(config)
    keys = listed([f"config.{path}={shortened(repr(flat[path]))}" for path in paths], 6)
    defaults = listed([f"{path} at {KEYS[path].default!r}" for path in paths], 6)
    has, needs = ("has", "it needs") if len(paths) == 1 else ("have", "they need")
    return f"{keys} {has} no effect with {cause}: {needs} {need}; change one of them, or leave {defaults}"

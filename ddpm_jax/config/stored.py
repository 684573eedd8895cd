"""Configurations as JSON, which is stored with a run and compared on resuming."""

import json
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from ddpm_jax.config.checks import unmet_needs
from ddpm_jax.config.loading import base_config, flatten
from ddpm_jax.config.schema import GROUPS, KEYS
from ddpm_jax.errors import UserError, listed, shortened

Changes: TypeAlias = dict[str, tuple[Any, Any]]
"""The keys whose values differ between two configurations, each with both values: `{key: (stored, current)}`."""


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration, to which every key that is newer than it is added with its default.

    Raises:
      UserError: it has keys that this version does not have.
    """
    base = to_json(base_config())
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

    A key that is newer than the run counts as stored with its default. A key that has no effect may differ. Names of
    classes are compared only if both configurations have them.

    Raises:
      UserError: the work directory contains another model or other data; the message names the keys.
    """
    stored = completed(stored)
    differing = changes(stored, to_json(config))
    flat = flatten(config)
    fixed = {path for path, key in KEYS.items() if key.fixed and not unmet_needs(path, flat)}
    if not (stored["labels"]["names"] and config.labels.names):
        differing.pop("labels.names", None)
    if stored["data"]["source"] == "folder" and not stored["data"]["path"]:  # converted weights: any images will do
        fixed -= {f"data.{key}" for key in GROUPS["data"].keys if key not in ("image_size", "channels")}
    clashes = {path: values for path, values in differing.items() if path in fixed}
    if clashes:
        raise UserError(f"{workdir} holds another run: {in_words(clashes)}; choose another workdir or the same values")
    return differing

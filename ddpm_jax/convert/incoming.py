"""Import of foreign weights as a run, which `sample.py`, `evaluate.py` and `train.py` open like any other run.

Read next: `network.py`, then one file for each family.
"""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import check_ranges, experiment, flatten, to_json
from ddpm_jax.convert import diffusers, ho, openai
from ddpm_jax.convert.files import is_state_dict, new_folder, read_weights, sha256, undisturbed, without_prefix
from ddpm_jax.convert.loader import parameters
from ddpm_jax.convert.names import Params, StateDict, tensors
from ddpm_jax.convert.network import Network
from ddpm_jax.errors import UserError, listed, reading
from ddpm_jax.runtime.devices import all_devices
from ddpm_jax.runtime.paths import holds_checkpoints, outside_checkpoints, run_folder
from ddpm_jax.runtime.storage import local_folder, write_bytes
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.state import initial_state


def understood(path: str | os.PathLike[str], given: Mapping[str, Any]) -> tuple[Network, list[Path]]:
    """The foreign `Network` in a folder or file, and the files it was read from.

    Args:
      path: diffusers folder, or state dict of OpenAI's or Ho et al.'s networks, on a disk.
      given: `{flag: value}` for what the weights leave open; a value of None means that the flag was not given.

    Raises:
      UserError: the path holds none of these, or our configuration cannot express the network.
    """
    path = Path(path)
    with reading(path):
        if path.is_dir():
            return diffusers.understood(path, given)
        if path.suffix == ".json" and path.is_file():
            raise UserError(f"{path} contains only settings: give its folder instead")
        state_dict, raw = _state_dicts(path)
    if "temb.dense.0.weight" in state_dict:
        return ho.understood(state_dict, given, raw=raw), [path]
    if "input_blocks.0.0.weight" in state_dict:
        return openai.understood(state_dict, given), [path]
    if "time_embedding.linear_1.weight" in state_dict:
        raise UserError(
            f"{path} contains weights of diffusers: give the folder with these weights and their config.json"
        )
    raise UserError(
        f"{path} contains weights of an unknown network: its first tensors are {listed(list(state_dict)[:3])}"
    )


def _state_dicts(path: Path) -> tuple[StateDict, StateDict | None]:
    """The weights to sample with, and those before averaging or None; DDIM's code stores both in one list."""
    content, raw = read_weights(path), None
    if isinstance(content, list) and content:
        content, raw = content[-1] if is_state_dict(content[-1]) else content[0], content[0]
    if not is_state_dict(content) or (raw is not None and not is_state_dict(raw)):
        raise UserError(f"{path} contains no state dict, which is a dict of tensors by their names")
    return without_prefix(content), None if raw is None else without_prefix(raw)


def configured(network: Network, base: ConfigDict, *, name: str) -> ConfigDict:
    """The configuration of a run of that name, locked: `base` with the settings of the network.

    Raises:
      UserError: the settings are not those of a valid network.
    """
    config = ConfigDict(base.to_dict()).unlock()
    try:
        config.update_from_flattened_dict({"name": name, **network.settings})
    except TypeError as error:
        raise UserError(f"the settings of these {network.kind} weights do not describe a network: {error}") from error
    check_ranges(config)
    factory.noise_schedule(config)
    return config.lock()


def converted(network: Network, config: ConfigDict, *, source: object) -> tuple[Params, Params]:
    """Our trees of parameters `(averaged, raw)` from a foreign network; both are the same where it has one set.

    Args:
      network: the foreign network.
      config: its configuration, from `configured`.
      source: where the weights come from, for messages.

    Raises:
      UserError: the tensors do not fit the configuration.
    """
    model = factory.network(config)
    shapes = jax.eval_shape(factory.initial_params(config, model), jax.random.key(0))
    heads = model.arch.heads if network.interleaved else lambda width: 1
    table = tensors(network.family, shapes, heads=heads)
    params = parameters(network.state_dict, table, source=source)
    if network.raw is None:
        return params, params
    return params, parameters(network.raw, table, source=f"{source}, before averaging,")


def import_weights(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, given: Mapping[str, Any] | None = None
) -> tuple[Network, ConfigDict, int]:
    """Makes a run directory from foreign weights, with a checkpoint at step 0 and `provenance.json`.

    Args:
      path: a diffusers folder, or a file with a state dict of OpenAI's or Ho et al.'s networks.
      out: the run directory, which must be new.
      given: `{flag: value}` for what the weights leave open, such as `{"image_size": 64}`.

    Returns:
      The network, the configuration and the number of parameters.

    Raises:
      UserError: the weights are of no known network or of one that our configuration cannot express, the tensors do
        not fit, `out` exists already, or it cannot be written.
    """
    all_devices()  # before any work
    out = run_folder(out)
    with new_folder(out) as folder, _on_disk(path) as source:
        network, files = understood(source, given or {})
        config = configured(network, experiment("base"), name=out.name)
        ema_params, params = converted(network, config, source=path)
        spec = factory.train_spec(config, factory.network(config), num_images=1)
        state = initial_state(
            jax.random.key(config.seed), lambda key: params, optimizer=spec.optimizer, times=spec.times
        )
        provenance = {
            "format": network.kind,
            "files": [
                {"name": _within(file, source), "bytes": file.stat().st_size, "sha256": sha256(file)} for file in files
            ],
            "assumed": network.assumed,
            "notes": network.notes,
        }
        write_bytes(folder / "provenance.json", json.dumps(provenance, indent=1, allow_nan=False).encode())
        with undisturbed(), Checkpoints(folder) as checkpoints:  # its threads would go on writing after an interrupt
            checkpoints.save(state.replace(ema_params=ema_params), to_json(config))
    return network, config, sum(leaf.size for leaf in jax.tree.leaves(params))


@contextlib.contextmanager
def _on_disk(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the foreign weights on a disk.

    Raises:
      UserError: there are none, they cannot be read, or the path holds a run.
    """
    place = outside_checkpoints(path)
    if holds_checkpoints(place / "checkpoints"):
        raise UserError(
            f"{place} is a run already, which sample.py can draw from: export_diffusers, or --to=diffusers, "
            "converts it into a diffusers folder"
        )
    with contextlib.ExitStack() as opened:
        with reading(place):
            copy = opened.enter_context(local_folder(place))
        yield copy


def _within(file: Path, source: str | os.PathLike[str]) -> str:
    """The file's path relative to `source` where that is a folder, else its name."""
    return os.path.relpath(file, source) if Path(source).is_dir() else file.name


def training_flags(config: ConfigDict) -> list[str]:
    """The flags, quoted for a shell, that give `train.py --config=base` this configuration."""
    usual = flatten(experiment("base"))
    changed = {key: value for key, value in flatten(config).items() if value != usual[key]}
    return [shlex.quote(f"--config.{key}={value}".replace(", ", ",")) for key, value in changed.items()]

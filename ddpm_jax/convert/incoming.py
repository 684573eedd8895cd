"""Foreign weights as a run of ours, which `sample.py`, `evaluate.py` and `train.py` open like any other.

Read next: `network.py`, then one file for each family.
"""

import json
import os
import shlex
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import check_ranges, experiment, flatten
from ddpm_jax.convert import diffusers, ho, openai
from ddpm_jax.convert.files import is_state_dict, new_folder, read_weights, reading, sha256, undisturbed, without_prefix
from ddpm_jax.convert.loader import parameters
from ddpm_jax.convert.names import tensors
from ddpm_jax.errors import UserError, listed
from ddpm_jax.runtime.devices import all_devices
from ddpm_jax.runtime.paths import holds_checkpoints, outside_checkpoints, run_folder
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.state import initial_state


def understood(path, given):
    """The foreign `Network` in a folder or file, and the files it was read from.

    Args:
      path: diffusers folder, or state dict of OpenAI's or Ho et al.'s networks.
      given: `{flag: value}` of what weights may not tell; None is not given.

    Raises:
      UserError: it is none of these, or a network that ours cannot express.
    """
    path = outside_checkpoints(path)
    with reading(path):
        if holds_checkpoints(path / "checkpoints"):
            raise UserError(
                f"{path} is a run of this program, which needs no conversion to be drawn from: add --to=diffusers to "
                "write it as a diffusers folder"
            )
        if path.is_dir():
            return diffusers.understood(path, given)
        if path.suffix == ".json" and path.is_file():
            raise UserError(f"{path} holds settings: give the folder that it is in")
        state_dict, raw = _state_dicts(path)
    if "temb.dense.0.weight" in state_dict:
        return ho.understood(state_dict, given, raw=raw), [path]
    if "input_blocks.0.0.weight" in state_dict:
        return openai.understood(state_dict, given), [path]
    if "time_embedding.linear_1.weight" in state_dict:
        raise UserError(f"{path} has weights of diffusers: give the folder that holds them and their config.json")
    raise UserError(f"{path} holds weights of no known network: its first tensors are {listed(list(state_dict)[:3])}")


def _state_dicts(path):
    """The weights to sample with, and those before averaging or None: DDIM's code puts both into one list."""
    content, raw = read_weights(path), None
    if isinstance(content, list) and content:
        content, raw = content[-1] if is_state_dict(content[-1]) else content[0], content[0]
    if not is_state_dict(content) or (raw is not None and not is_state_dict(raw)):
        raise UserError(f"{path} holds no state dict: names with a tensor each")
    return without_prefix(content), None if raw is None else without_prefix(raw)


def configured(network, base, *, name):
    """The run's configuration: the base with the network's settings.

    Raises:
      UserError: the settings make no network.
    """
    config = ConfigDict(base.to_dict()).unlock()
    try:
        config.update_from_flattened_dict({"name": name, **network.settings})
    except TypeError as error:
        raise UserError(f"the {network.kind} settings are not those of a network: {error}") from error
    check_ranges(config)
    factory.noise_schedule(config)
    return config.lock()


def converted(network, config, *, source):
    """Our trees of parameters `(averaged, raw)` of a foreign network; raises a UserError where tensors do not fit."""
    model = factory.network(config)
    shapes = jax.eval_shape(factory.initial_params(config, model), jax.random.key(0))
    heads = model.arch.heads if network.interleaved else lambda width: 1
    table = tensors(network.family, shapes, heads=heads)
    params = parameters(network.state_dict, table, source=source)
    if network.raw is None:
        return params, params
    return params, parameters(network.raw, table, source=f"{source}, before averaging,")


def import_weights(path, out, *, given=None):
    """Makes a run directory of foreign weights: a checkpoint at step 0 and `provenance.json`.

    Args:
      path: as for `understood`.
      out: the run directory, new.
      given: `{flag: value}` of what weights may not tell, such as `{"image_size": 64}`.

    Returns:
      The network, the configuration and the number of parameters.

    Raises:
      UserError: as `understood`; or the tensors do not fit, there is something at `out`, or it cannot be written.
    """
    all_devices()  # before any work
    out = run_folder(out)
    with new_folder(out) as folder:
        network, files = understood(path, given or {})
        config = configured(network, experiment("base"), name=out.name)
        ema_params, params = converted(network, config, source=path)
        recipe = factory.recipe(config, factory.network(config), num_images=1)
        state = initial_state(
            jax.random.key(config.seed), lambda key: params, optimizer=recipe.optimizer, times=recipe.times
        )
        provenance = {
            "format": network.kind,
            "files": [
                {"name": _within(file, path), "bytes": file.stat().st_size, "sha256": sha256(file)} for file in files
            ],
            "assumed": network.assumed,
            "notes": network.notes,
        }
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=1, allow_nan=False))
        with undisturbed(), Checkpoints(folder) as checkpoints:  # whose threads would write on
            checkpoints.save(state.replace(ema_params=ema_params), config)
    return network, config, sum(leaf.size for leaf in jax.tree.leaves(params))


def _within(file: Path, source: Path) -> str:
    """The file's name, with its place within a folder that was given."""
    return os.path.relpath(file, source) if Path(source).is_dir() else file.name


def training_flags(config):
    """The flags by which `train.py --config=base` has this configuration."""
    usual = flatten(experiment("base"))
    changed = {key: value for key, value in flatten(config).items() if value != usual[key]}
    return [shlex.quote(f"--config.{key}={value}".replace(", ", ",")) for key, value in changed.items()]

"""Damaged checkpoints of two model sizes, opened in every way in which the library opens one, for `damage.py`."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from _corrupt import BYTES, Rng
from _pool import Outcome, Task, outcome_of
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import experiment, from_json, to_json
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.loop import state_shapes
from ddpm_jax.training.restoring import stored_config
from ddpm_jax.training.state import TrainState

RIGHT, BEFORE, WRONG = "right values", "the one before", "WRONG VALUES"
SIZES: dict[str, dict[str, Any]] = {
    "small": {"model.channels": 8, "model.channel_mult": (1,), "model.attention_resolutions": ()},
    "larger": {"model.channels": 16, "model.channel_mult": (1, 2), "model.attention_resolutions": (4,)},
}
STEPS = (1, 2)
WAYS = ("averages", "parameters", "configuration", "whole state")  # the last one moves aside what it cannot read
KINDS = (*BYTES, "empty file", "swapped files", "file of the step before", "deleted file", "deleted folder")


class Saved(NamedTuple):
    """A run with checkpoints of two steps.

    Attributes:
      workdir: the directory of the run.
      config: its configuration.
      contents: `{way of opening: {step: arrays}}`, what each way gives of an undamaged checkpoint.
    """

    workdir: Path
    config: ConfigDict
    contents: dict[str, dict[int, list[np.ndarray]]]


def seeds(folder: Path) -> dict[str, Saved]:
    """A run of each size, saved by the library and opened undamaged in every way."""
    return {size: _saved(folder / size, settings) for size, settings in SIZES.items()}


def _saved(workdir: Path, settings: dict[str, Any]) -> Saved:
    """A run whose two checkpoints differ in every number, and in one key of the configuration."""
    config = experiment("digits")
    with config.unlocked():
        config.update_from_flattened_dict({**settings, "model.norm_groups": 4, "diffusion.num_timesteps": 20})
    states = {step: _random(_init(config), step) for step in STEPS}
    with Checkpoints(workdir, keep=len(STEPS)) as checkpoints:
        for step, state in states.items():
            config.log.every = step
            checkpoints.save(state, to_json(config))
            checkpoints.wait()
    configs = {}
    for step in STEPS:
        config.log.every = step
        configs[step] = [_text(config)]
    contents = {
        "averages": {step: _arrays(state.ema_params) for step, state in states.items()},
        "parameters": {step: _arrays(state.params) for step, state in states.items()},
        "configuration": configs,
        "whole state": {step: _arrays(state) for step, state in states.items()},
    }
    return Saved(workdir, config, contents)


def _init(config: ConfigDict) -> Callable[[jax.Array], TrainState]:
    """A function from a key to the run's state at step 0."""
    model = factory.network(config)
    return factory.state_init(config, model, factory.train_spec(config, model, num_images=1))


def _random(init: Callable[[jax.Array], TrainState], step: int) -> TrainState:
    """A state whose arrays are random and differ from those of every other step."""
    shapes, rng = state_shapes(init), np.random.default_rng(step)

    def numbers(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        is_float = jax.numpy.issubdtype(leaf.dtype, np.floating)
        return jax.numpy.asarray(rng.uniform(0, 1, leaf.shape) if is_float else np.full(leaf.shape, step), leaf.dtype)

    return jax.tree.map(numbers, shapes.replace(key=shapes.step)).replace(key=jax.random.key(step))


def task(seed: int, whole: dict[str, Saved], folder: Path) -> Task:
    """A task that damages a checkpoint and opens the run in one of the four ways: number i has the damage i // 4."""

    def opened(number: int) -> Outcome:
        case, way = number // len(WAYS), WAYS[number % len(WAYS)]
        saved, kind = whole[list(whole)[case % len(whole)]], KINDS[case // len(whole) % len(KINDS)]
        workdir = folder / f"run_{os.getpid()}"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(saved.workdir, workdir)
        where = damaged(workdir / "checkpoints" / str(STEPS[-1]), kind, np.random.default_rng((seed, case)))
        outcome = outcome_of(kind, partial(_compared, way, workdir, saved))
        return outcome._replace(detail=f"case {case}, {way}, {where}: {outcome.detail}")

    return opened


def damaged(checkpoint: Path, kind: str, rng: Rng) -> str:
    """Does one kind of damage to one file or folder of a checkpoint, larger files more often; returns its path."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    weights = np.array([max(1, path.stat().st_size) ** 0.5 for path in files])
    path, other = (files[i] for i in rng.choice(len(files), 2, replace=False, p=weights / weights.sum()))
    where = str(path.relative_to(checkpoint))
    if kind in BYTES:
        data = path.read_bytes()
        bad = data
        while bad == data and data:
            bad = BYTES[kind](data, rng)
        path.write_bytes(bad)
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "swapped files":
        left, right = path.read_bytes(), other.read_bytes()
        path.write_bytes(right)
        other.write_bytes(left)
    elif kind == "file of the step before":
        theirs = sorted(p for p in (checkpoint.parent / str(STEPS[0])).rglob("*") if p.is_file())
        alike = [p for p in theirs if p.name == path.name] or [p for p in theirs if p.parent.name == path.parent.name]
        path.write_bytes((alike or theirs)[int(rng.integers(len(alike or theirs)))].read_bytes())
    elif kind == "deleted file":
        path.unlink()
    else:
        folders = sorted(p for p in checkpoint.rglob("*") if p.is_dir())
        path = folders[int(rng.integers(len(folders)))]
        shutil.rmtree(path)
        where = str(path.relative_to(checkpoint))
    return where


def _compared(way: str, workdir: Path, saved: Saved) -> str:
    """Which of the two checkpoints one way of opening a run gives, bit for bit; `WRONG` if neither."""
    found = _open(way, workdir, saved.config)
    for step, result in ((STEPS[1], RIGHT), (STEPS[0], BEFORE)):
        expected = saved.contents[way][step]
        if len(found) == len(expected) and all(map(_same, found, expected)):
            return result
    return WRONG


def _open(way: str, workdir: Path, config: ConfigDict) -> list[np.ndarray]:
    """The arrays that one way of opening a run gives."""
    if way == "configuration":
        return [_text(from_json(stored_config(workdir)))]
    if way in ("averages", "parameters"):
        return _arrays(Run(workdir, params={"averages": "ema", "parameters": "raw"}[way]).params)
    whole = replicated(device_mesh())
    shaped = partial(jax.ShapeDtypeStruct, sharding=whole)
    target = jax.tree.map(lambda x: shaped(x.shape, x.dtype), state_shapes(_init(config)))
    with Checkpoints(workdir, keep=len(STEPS)) as checkpoints:
        restored = checkpoints.restore(target)
    return _arrays(restored)


def _text(config: ConfigDict) -> np.ndarray:
    """A configuration as an array of bytes."""
    return np.frombuffer(json.dumps(to_json(config), sort_keys=True).encode(), np.uint8)


def _arrays(tree: chex.ArrayTree) -> list[np.ndarray]:
    """The leaves of a tree as NumPy arrays, random keys as their integers."""
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return [np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal bit for bit."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()

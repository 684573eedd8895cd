"""A small run of the digits, and whether two of them are equal bit for bit, for the benchmarks that end runs."""

from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from ddpm_jax import factory
from ddpm_jax.config import from_json
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.training import log
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.goodput import TIMED
from ddpm_jax.training.loop import state_shapes
from ddpm_jax.training.restoring import stored_config
from ddpm_jax.training.state import TrainState

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "model.channels": 8,
    "model.channel_mult": (1,),
    "model.norm_groups": 4,
    "model.attention_resolutions": (),
    "model.dropout": 0.1,
    "data.random_flip": True,
    "data.on_device": False,
    "diffusion.num_timesteps": 20,
    "train.batch_size": 16,
    "train.num_steps": 400,
    "checkpoint.every": 5,
    "log.every": 1,
    "log.preview_every": 0,
}

Record: TypeAlias = tuple[TrainState, list[dict[str, Any]]]
"""The state at the end of a run, and the lines of its log without the speeds."""


def record(workdir: AnyPath) -> Record:
    """Everything that must be equal for two runs: the state's arrays and the log without its speeds."""
    stored = stored_config(workdir)
    assert stored is not None, "the run has ended"
    config = from_json(stored)
    model = factory.network(config)
    init = factory.state_init(config, model, factory.train_spec(config, model, num_images=1))
    whole = replicated(device_mesh())
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state_shapes(init))
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(target)
    assert state is not None, "the run has ended"
    return state, [{k: v for k, v in line.items() if k not in TIMED} for line in log.read_log(workdir)]


def same(left: Record, right: Record) -> bool:
    """Whether two records are equal bit for bit."""
    (one, log), (other, other_log) = left, right
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return log == other_log and all(np.array_equal(bits(a), bits(b)) for a, b in pairs)


def bits(leaf: jax.Array) -> np.ndarray:
    """A leaf of a state as a NumPy array, a random key as its integers."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

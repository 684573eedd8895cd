"""Runs that take seconds: digits, one level of eight channels, T = 20, and the programs run in this process."""

import contextlib
import io
import logging
import runpy
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

import ddpm_jax.commands.cli  # noqa: F401  -- defines absl's own flags before any program's
from ddpm_jax import factory
from ddpm_jax.config import experiment, flatten, to_json
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.goodput import TIMED
from ddpm_jax.training.log import read_log
from ddpm_jax.training.state import TrainState, initial_state

Folder = TypeVar("Folder", str, Path)
ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "name": "tiny",
    "model.channels": 8,
    "model.channel_mult": (1,),
    "model.norm_groups": 4,
    "model.attention_resolutions": (),
    "diffusion.num_timesteps": 20,
    "train.batch_size": 8,
    "train.num_steps": 8,
    "checkpoint.every": 2,
    "checkpoint.keep": 2,
    "log.every": 1,
    "log.preview_every": 0,
    "log.preview_images": 4,
    "log.preview_steps": 5,
}


def tiny_config(**overrides: Any) -> ConfigDict:
    """The tiny configuration with changes, as in `train__num_steps=4` for `train.num_steps`."""
    config = experiment("digits")
    for key, value in {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}.items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    return config


def given_config(**overrides: Any) -> ConfigDict:
    """The tiny configuration for a network and batches that a test gives: it sets no key that has no effect then."""
    base = flatten(experiment("base"))
    unset = {key.replace(".", "__"): value for key, value in base.items() if key.startswith("model.")}
    return tiny_config(**{**unset, "data__on_device": False, **overrides})


def arguments(config: ConfigDict) -> list[str]:
    """The configuration as command-line arguments over the default experiment."""
    base = flatten(experiment("digits"))
    return [f"--config.{key}={value}" for key, value in flatten(config).items() if value != base[key]]


def random_state(config: ConfigDict, *, step: int = 0) -> TrainState:
    """A state as if trained: parameters, averages and the optimiser's moments are all random and different."""
    model = factory.network(config)
    spec = factory.train_spec(config, model, num_images=1297)
    init = partial(
        initial_state,
        init_params=factory.initial_params(config, model),
        optimizer=spec.optimizer,
        times=spec.times,
    )
    rng = np.random.default_rng(step)

    def noisy(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        random = jnp.issubdtype(leaf.dtype, jnp.floating)
        return (
            jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype)
            if random
            else jnp.full(leaf.shape, step, leaf.dtype)
        )

    shapes = jax.eval_shape(init, jax.random.key(0))
    state = jax.tree.map(noisy, shapes.replace(key=shapes.step))
    moments = jax.tree.map(jnp.abs, state.opt_state)  # the second ones are squares
    return state.replace(key=jax.random.key(step), opt_state=moments)


def save(workdir: Folder, config: ConfigDict, *, steps: Sequence[int] = (1,)) -> Folder:
    """Makes a run that has checkpoints of random states at these steps, untrained; returns its directory."""
    with Checkpoints(workdir, keep=len(steps)) as checkpoints:
        for step in steps:
            checkpoints.save(random_state(config, step=step), to_json(config))
    return workdir


def same(left: chex.ArrayTree, right: chex.ArrayTree) -> bool:
    """Whether two trees of arrays are equal bit for bit."""

    def bits(x: jax.Array | np.ndarray) -> np.ndarray:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    equal = jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(bits(a), bits(b)), left, right))
    return all(equal) and bool(equal)


def untimed(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log without the numbers that depend on how fast it was."""
    return [{name: value for name, value in line.items() if name not in TIMED} for line in read_log(workdir)]


class Outcome(NamedTuple):
    """The exit status of a program, and what it wrote to its standard output and error."""

    status: int
    out: str
    err: str


def run(program: str, *args: object) -> Outcome:
    """Runs a program, by its path in the repository, with arguments as in a shell, but in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with _own_flags(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = [program, *map(str, args)]
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Outcome(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Lets a program define its flags, take the command line and set up logging, and restores all of it at the end."""
    argv, root, handler = sys.argv, logging.getLogger(), absl_logging.get_absl_handler()
    handlers, filters, level = list(root.handlers), list(handler.filters), absl_logging.get_verbosity()
    flags.FLAGS.unparse_flags()
    try:
        yield
    finally:
        by_module = flags.FLAGS.flags_by_module_dict().items()
        commands = {f"ddpm_jax.commands.{name}" for name in ("train", "sample", "evaluate", "status", "chain_flags")}
        programs = [module for module, _ in by_module if module in commands or module.endswith(sys.argv[0])]
        own = {flag.name for module, known in by_module if module in programs for flag in known}
        for name in own | {name for name in flags.FLAGS if name.startswith("config.")}:
            delattr(flags.FLAGS, name)
        for module in programs:
            sys.modules.pop(module, None)  # so that it defines its flags when it runs again
        flags.FLAGS.mark_as_parsed()
        sys.argv, root.handlers, handler.filters = argv, handlers, filters
        absl_logging.set_verbosity(level)

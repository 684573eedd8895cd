"""Measures how much time the scan and the sampler of a reverse chain add to that of its network evaluations.

  python benchmarks/sample_chain.py         the digits configuration, 1,000 steps
  python benchmarks/sample_chain.py --config_name=cifar10 --batch_size=8 --num_steps=50

Measures the time of the chain and, alternately, that of equally many calls of the same jit-compiled network; prints the
ratio for each pair of measurements.
"""

import time
from collections.abc import Callable

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import device_mesh, replicated, split

CONFIG_NAME = flags.DEFINE_string("config_name", "digits", "The name of a configuration in configs/.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "The number of images.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 1000, "The number of steps of the chain.", lower_bound=1)
PAIRS = flags.DEFINE_integer("pairs", 3, "The number of pairs of measurements.", lower_bound=1)


def timed(function: Callable[[], jax.Array | np.ndarray]) -> float:
    """Seconds of one call, including the wait for its result."""
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


def main() -> None:
    """Prints a line for each pair and the median ratio."""
    config = experiment(CONFIG_NAME.value)
    mesh, model = device_mesh(), factory.network(config)
    params = jax.jit(factory.initial_params(config, model), out_shardings=replicated(mesh))(jax.random.key(0))
    chain = chain_of(config, model, num_steps=NUM_STEPS.value, mesh=mesh)
    key, indices = jax.random.key(0), np.arange(BATCH_SIZE.value)
    forward = jax.jit(lambda params, x, t: model.apply({"params": params}, x, t))
    shape = (BATCH_SIZE.value, config.data.image_size, config.data.image_size, config.data.channels)
    x, t = (jax.device_put(a, split(mesh)) for a in (jnp.zeros(shape), jnp.zeros(shape[0])))

    def forwards() -> jax.Array:
        result = x
        for _ in range(NUM_STEPS.value):
            result = jax.block_until_ready(forward(params, x, t))
        return result

    chain(params, key, indices=indices)
    forward(params, x, t)
    device = f"{mesh.size} x {jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{CONFIG_NAME.value}, batch {BATCH_SIZE.value}, {NUM_STEPS.value} steps on {device}")
    print("chain s  network calls s  ratio")
    ratios = []
    for _ in range(PAIRS.value):
        whole, calls = timed(lambda: chain(params, key, indices=indices)), timed(forwards)
        ratios.append(whole / calls)
        print(f"{whole:7.2f}  {calls:15.2f}  {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {np.median(ratios):.3f}")


if __name__ == "__main__":
    cli.run(main, module=__name__)

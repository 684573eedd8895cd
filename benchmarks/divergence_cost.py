"""Measures what it costs to decide in every train step whether it diverged.

  python benchmarks/divergence_cost.py                 the default digits configuration, on these devices
  python benchmarks/divergence_cost.py --threshold=20  also compares the loss with those of the last 101 steps

Compiles the train step twice, as it is and without the decision (XLA then removes what keeps the old state), takes both
in turn, and prints the median of the ratios of their times, with its quartiles.
"""

import time
from unittest import mock

import _root  # noqa: F401
import jax
import numpy as np
from absl import flags

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.runtime.devices import device_mesh, global_batch, replicated
from ddpm_jax.training import divergence
from ddpm_jax.training.loop import compiled_step

CONFIG = flags.DEFINE_string("config", "digits", "The name of the configuration.")
PAIRS = flags.DEFINE_integer("pairs", 100, "The number of pairs of steps.", lower_bound=4)
THRESHOLD = flags.DEFINE_float("threshold", 0.0, "The value of train.divergence_threshold.", lower_bound=0)


class _Step:
    """A compiled train step with its state."""

    def __init__(self) -> None:
        config = experiment(CONFIG.value)
        config.train.divergence_threshold = THRESHOLD.value
        mesh, model = device_mesh(), factory.network(config)
        spec = factory.train_spec(config, model, num_images=1297)
        init = factory.state_init(config, model, spec)
        self._state = jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(0))
        shape = (config.train.batch_size, config.data.image_size, config.data.image_size, config.data.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._batch = global_batch(mesh, {"image": images, "label": np.zeros(shape[0], np.int32)})
        self._step = compiled_step(spec, mesh, self._state)
        self.seconds()  # compiles it

    def seconds(self) -> float:
        """Takes a step and returns its time."""
        begin = time.perf_counter()
        self._state, _ = jax.block_until_ready(self._step(self._state, self._batch))
        return time.perf_counter() - begin


def main() -> None:
    """Prints the ratio."""
    decides = _Step()
    with mock.patch.object(divergence, "diverged", return_value=np.array(False)):
        never = _Step()
    ratios, times = [], []
    for pair in range(PAIRS.value):
        first, second = (decides, never) if pair % 2 else (never, decides)
        measured = {first: first.seconds(), second: second.seconds()}
        ratios.append(measured[decides] / measured[never])
        times.append(measured[never])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(
        f"{CONFIG.value}: {1000 * np.median(times):.1f} ms per step without the decision; with it "
        f"{middle:.4f} times as long (quartiles {low:.4f} to {high:.4f}, {PAIRS.value} pairs)"
    )


if __name__ == "__main__":
    cli.run(main, module=__name__)

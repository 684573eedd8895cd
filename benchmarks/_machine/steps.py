"""A train step of a configuration, compiled and ready to be timed on random images."""

import dataclasses
import time
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from ml_collections import ConfigDict

from _machine.arithmetic import operations
from _machine.clock import host_seconds, median_seconds
from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.runtime.devices import device_mesh, global_batch, replicated
from ddpm_jax.training.loop import compiled_step
from ddpm_jax.training.step import Objective, TrainSpec

NUM_IMAGES = 50_000  # of CIFAR-10
WARMUP = 500  # steps of the learning rate: the 5,000 of the configurations are more than a measurement takes

Change: TypeAlias = Callable[[TrainSpec], TrainSpec]
"""A function from the spec of a configuration to another one."""


def config_of(name: str, *, dtype: str, batch_size: int, **changes: object) -> ConfigDict:
    """An experiment in a type of computation, with a batch size and other changes by their paths."""
    config = experiment(name)
    config.optim.warmup_steps = WARMUP
    config.update_from_flattened_dict({"model.dtype": dtype, "train.batch_size": batch_size, **changes})
    return config


class Step:
    """The compiled train step of a configuration and its state, on one device.

    Attributes:
      compiled: `jax.stages.Compiled`.
      compile_seconds: time of tracing and compiling.
      num_parameters: number of parameters of the network.
      state: the state after the last step.
      batch: what every step is given.
    """

    def __init__(self, config: ConfigDict, *, change: Change = lambda spec: spec) -> None:
        self._config, mesh, self._model = config, device_mesh(jax.devices()[:1]), factory.network(config)
        spec = change(factory.train_spec(config, self._model, num_images=NUM_IMAGES))
        init = factory.state_init(config, self._model, spec)
        self.state = jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(0))
        size, data = config.train.batch_size, config.data
        number = NUM_IMAGES if data.on_device else size
        shape = (number, data.image_size, data.image_size, data.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        examples = {"image": images, "label": np.zeros(number, np.int32)}
        if data.on_device:
            index = np.random.default_rng(1).integers(0, number, size, np.int32)
            self.batch = (jax.device_put(examples, replicated(mesh)), global_batch(mesh, index))
        else:
            self.batch = global_batch(mesh, examples)
        step = compiled_step(spec, mesh, self.state, gathers=data.on_device)
        begin = time.perf_counter()
        self._lowered = step.lower(self.state, self.batch)
        self.compiled = self._lowered.compile()
        self.compile_seconds = time.perf_counter() - begin
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def __call__(self) -> dict[str, jax.Array]:
        """Submits one step; returns its metrics, which the device may still be computing."""
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics

    def figures(self, *, small: bool, peak: float | None) -> dict[str, object]:
        """The columns of a row about this step; `peak` is the machine's rate in TFLOP/s, or None if it is unknown."""
        size = self._config.train.batch_size
        seconds = median_seconds(self, window=0.0 if small else 0.5, windows=3 if small else 5)
        by_hand, by_xla = self.operations(), (self._lowered.cost_analysis() or {}).get("flops", 0) / size
        rate = by_hand * size / seconds / 1e12
        return {
            "batch": size,
            "ms/step": 1000 * seconds,
            "images/s": size / seconds,
            "TFLOP/s": rate,
            "of the product's rate": rate / peak if peak else "",
            "GFLOP/image by hand": by_hand / 1e9,
            "by XLA": by_xla / 1e9 if by_xla else "",  # which counts nothing on some devices
            "compile s": self.compile_seconds,
            "memory GiB": self.memory(),
            "host ms/step": 1000 * host_seconds(self, 2 if small else 10),
        }

    def operations(self) -> float:
        """Operations per image: three times those of the network, because the gradient adds twice as many."""
        data = self._config.data
        image = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), np.float32)
        index = jax.ShapeDtypeStruct((1,), np.float32)
        apply = lambda params, x, index: self._model.apply({"params": params}, x, index)
        return 3.0 * operations(apply, self.state.params, image, index)

    def memory(self) -> float | str:
        """GiB that the compiled step needs for inputs, results and temporary arrays; "" if JAX does not report it."""
        stats = self.compiled.memory_analysis()
        if stats is None:
            return ""
        held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
        return (held + stats.temp_size_in_bytes) / 2**30


def with_objective(change: Callable[[Objective], Objective]) -> Change:
    """A change of a spec that changes its objective."""
    return lambda spec: dataclasses.replace(spec, objective=change(spec.objective))

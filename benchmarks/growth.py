"""Shows how the cost of a train step and of a chain grows: with the batch, the image, the devices and the steps.

  python benchmarks/growth.py                          the network of the digits, on this machine
  python benchmarks/growth.py --batches=16,32,64 --sides=8,16,32 --num_steps=10,100,1000

Four tables. The time of a train step on one device against the batch and against the side of the images; what each of
n devices sends in a step against the ideal ring, which sums the gradient with `2 (n - 1) / n` times its bytes; and the
time of a chain and the memory of its compiled program against the number of its steps. A CPU shows itself as eight
devices, on which times mean little; what is sent and the memory are read from the compiled programs.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.diffusion.arrays import image_keys
from ddpm_jax.diffusion.samplers import sample
from ddpm_jax.jobs import costs
from ddpm_jax.jobs.resources import abstract_arguments
from ddpm_jax.runtime.devices import device_mesh, global_batch, sharded
from ddpm_jax.training.loop import compiled_step, state_shapes

BATCHES = flags.DEFINE_list("batches", "16,32,64,128", "The numbers of images per step, separated by commas.")
SIDES = flags.DEFINE_list("sides", "8,16,32", "The sides of the images in pixels, with 16 images per step.")
DEVICES = flags.DEFINE_list("devices", "1,2,4,8", "The numbers of devices, with 64 images per step in all.")
NUM_STEPS = flags.DEFINE_list("num_steps", "10,20,40,80", "The numbers of steps of the chain, with 16 images.")


def main() -> None:
    """Prints the four tables."""
    print(f"digits, float32, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print("\nbatch  ms/step  ms/image")
    for batch in map(int, BATCHES.value):
        ms = 1000 * step_seconds(digits(batch=batch))
        print(f"{batch:5d}{ms:9.1f}{ms / batch:10.3f}", flush=True)
    print("\n side  ms/step  us/pixel")
    for side in map(int, SIDES.value):
        ms = 1000 * step_seconds(digits(batch=16, side=side))
        print(f"{side:5d}{ms:9.1f}{1000 * ms / (16 * side**2):10.3f}", flush=True)
    print("\ndevices  MB sent  ideal  ratio")
    for count in map(int, DEVICES.value):
        sent, ideal = (amount / 1e6 for amount in exchange(digits(batch=64), count))
        print(f"{count:7d}{sent:9.3f}{ideal:7.3f}  {f'{sent / ideal:.4f}' if ideal else '-'}", flush=True)
    print("\nsteps  seconds  ms/step  temporaries MB")
    for num_steps in map(int, NUM_STEPS.value):
        seconds, temporaries = chain(digits(batch=16), num_steps)
        print(f"{num_steps:5d}{seconds:9.2f}{1000 * seconds / num_steps:9.1f}{temporaries / 1e6:16.3f}", flush=True)


def digits(*, batch: int, side: int = 8) -> ConfigDict:
    """The configuration of the digits with another batch and images of another size."""
    config = experiment("digits")
    config.train.batch_size, config.data.image_size = batch, side
    return config


def lowered(config: ConfigDict, num_devices: int) -> tuple[jax.stages.Lowered, Any, Any, Any]:
    """The train step on the first devices, with its mesh, the shapes of its state, and how the state begins."""
    mesh, model = device_mesh(jax.devices()[:num_devices]), factory.network(config)
    spec = factory.train_spec(config, model, num_images=1297)
    init = factory.state_init(config, model, spec)
    shapes = state_shapes(init)
    return compiled_step(spec, mesh, shapes).lower(*abstract_arguments(config, mesh, shapes)), mesh, shapes, init


def step_seconds(config: ConfigDict) -> float:
    """The median seconds of a train step on one device, on random images."""
    program, mesh, shapes, init = lowered(config, 1)
    step, size = program.compile(), config.data.image_size
    state = jax.jit(init, out_shardings=sharded(mesh, shapes))(jax.random.key(0))
    shape = (config.train.batch_size, size, size, config.data.channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = global_batch(mesh, {"image": image, "label": np.zeros(shape[0], np.int32)})

    def once() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch))

    return median_seconds(once)


def exchange(config: ConfigDict, num_devices: int) -> tuple[float, float]:
    """The bytes that each device sends in a step, and those of the ideal ring."""
    program, _, shapes, _ = lowered(config, num_devices)
    sent, _ = costs.bytes_sent(program.compile().as_text() or "", num_devices)
    gradient = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.params))
    return sum(sent.values()), 2 * (num_devices - 1) / num_devices * gradient


def chain(config: ConfigDict, num_steps: int) -> tuple[float, int]:
    """The median seconds of a chain on one device, and the bytes of the temporary arrays of its program."""
    model, data = factory.network(config), config.data
    params = jax.jit(factory.initial_params(config, model))(jax.random.key(0))
    transitions = jax.tree.map(jnp.float32, factory.sampling_transitions(config, num_steps))
    sampler = factory.sampler(config)(factory.sampler_settings(config))
    keys = image_keys(jax.random.key(0), np.arange(config.train.batch_size))

    @jax.jit
    def draw(params: Any, keys: jax.Array, x_T: jax.Array) -> jax.Array:
        return sample(sampler, factory.denoiser(config, model)(params), keys, x_T=x_T, transitions=transitions)

    x_T = jnp.zeros((config.train.batch_size, data.image_size, data.image_size, data.channels))
    program = draw.lower(params, keys, x_T).compile()
    memory = program.memory_analysis()
    assert memory is not None, "XLA knows it on CPUs, GPUs and TPUs"
    return median_seconds(lambda: jax.block_until_ready(program(params, keys, x_T))), memory.temp_size_in_bytes


def median_seconds(once: Callable[[], object]) -> float:
    """The median seconds of five calls, after one that is not counted."""
    once()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[2]


if __name__ == "__main__":
    with contextlib.suppress(RuntimeError):  # a process that has its devices already keeps them
        jax.config.update("jax_num_cpu_devices", 8)
    cli.run(main, module=__name__)

"""What a run will take, before it is booked: parameters, memory and arithmetic a device, by compiling the very step.

XLA says what it needs; nothing is allocated and no image is read. With a topology such as "v5e:4x4" the step is
compiled for that TPU slice, on any machine that has `libtpu` installed.
"""

import os
import re
import warnings
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax import factory
from ddpm_jax.config import check_ranges
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.jobs.train import compiled_step, initial, state_shapes
from ddpm_jax.runtime.devices import all_devices, check_divides, device_mesh, sharded, split
from ddpm_jax.runtime.quiet import quieten_libtpu

_MEMORY_GIB = {"v3": 16, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # of one device, as Google Cloud documents it
_TOPOLOGY = r"v\d+[a-z]*:[1-9]\d*(x[1-9]\d*)+"
_REMEDY = (
    "cut the state (--config.mesh.fsdp), the batch (--config.train.accumulation) or the activations "
    "(--config.model.remat)"
)


class Plan(NamedTuple):
    """What a step takes; sizes in bytes on one device.

    Attributes:
      parameters: numbers in the network.
      devices: platform and kind.
      mesh: `{axis: size}`.
      state: parameters, their average and the optimiser's state.
      batch: the device's part of it.
      temporaries: activations and gradients at their peak, by XLA's analysis.
      flops: of one step on one device, by XLA's analysis.
      memory: of the device, None where unknown.
    """

    parameters: int
    devices: str
    mesh: dict[str, int]
    state: int
    batch: int
    temporaries: int
    flops: float
    memory: int | None


def plan(config, *, topology=None, num_images=1):
    """Compiles the train step of a configuration and reads off what it takes.

    Args:
      config: configuration.
      topology: TPU slice, such as "v5e:4x4"; None for the devices at hand.
      num_images: of the training set; only a posterior's KL depends on it, no size does.

    Raises:
      UserError: a number makes no sense, the devices do not divide, `libtpu` is missing, or the step does not fit.
    """
    check_ranges(config)
    devices = all_devices() if topology is None else topology_devices(topology)
    mesh = device_mesh(devices, fsdp=config.mesh.fsdp)
    check_divides(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
    model = factory.network(config)
    recipe = factory.recipe(config, model, num_images=num_images)
    shapes = state_shapes(initial(config, model, recipe))
    state = _placed(shapes, sharded(mesh, shapes))
    size, channels, batch_size = config.data.image_size, config.data.channels, config.train.batch_size
    image = jax.ShapeDtypeStruct((batch_size, size, size, channels), np.uint8, sharding=split(mesh))
    batch = {"image": image, "label": jax.ShapeDtypeStruct((batch_size,), np.int32, sharding=split(mesh))}
    traced = compiled_step(recipe, mesh, shapes).trace(state, batch)
    try:
        with warnings.catch_warnings():  # a step kept from before, compiled for devices that are not here
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
            compiled = traced.lower(lowering_platforms=(mesh.devices.flat[0].platform,)).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the step does not fit on {_kind(devices)}: {first_line(error)}; {_REMEDY}") from error
    costs = compiled.cost_analysis() or {}
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        devices=_kind(devices),
        mesh=dict(mesh.shape),
        state=_bytes_per_device(state),
        batch=_bytes_per_device(batch),
        temporaries=compiled.memory_analysis().temp_size_in_bytes,
        flops=costs.get("flops", float("nan")),
        memory=_memory(devices[0], topology),
    )


def table(config, plan):
    """The lines that a person reads.

    Raises:
      UserError: the step does not fit into the device's memory.
    """
    gib, needed = 2**30, plan.state + plan.batch + plan.temporaries
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    lines = [
        f"{config.name}: {plan.parameters:,} parameters, batch {config.train.batch_size}, {config.model.dtype}",
        f"devices          {plan.devices}, mesh {axes}",
        f"state            {plan.state / gib:9.3f} GiB a device (parameters, average, optimiser)",
        f"batch            {plan.batch / gib:9.3f} GiB",
        f"temporaries      {plan.temporaries / gib:9.3f} GiB (activations and gradients, by XLA)",
        f"in all           {needed / gib:9.3f} GiB"
        + (f" of {plan.memory / gib:.0f}" if plan.memory else ", of a device whose memory is not known here"),
        *(["data set         whole on each device besides"] if config.data.on_device else []),
        f"arithmetic       {plan.flops / 1e12:9.3f} TFLOP a step and device (by XLA)",
    ]
    if plan.memory and needed > plan.memory:
        raise UserError(f"the step takes {needed / gib:.1f} GiB of {plan.memory / gib:.0f} a device; {_REMEDY}")
    return lines


def topology_devices(name):
    """The devices of a TPU slice that is not there, such as "v5e:4x4".

    Raises:
      UserError: `libtpu` is not installed, or there is no such slice.
    """
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    quieten_libtpu()
    if not re.fullmatch(_TOPOLOGY, name):
        raise UserError(f"--topology={name} is no slice: write it as v5e:4x4 or v4:2x2x4")
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError("--topology compiles for a TPU, which needs its compiler: pip install libtpu") from None
    try:
        # Of the kinds whose chips have two cores, v4 is told to join them into one device, as on a real slice.
        joined = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
        return topologies.get_topology_desc(name, platform="tpu", **joined).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(f"--topology={name}: {first_line(error)}; write it as v5e:4x4 or v4:2x2x4") from error


def _placed(shapes, shardings):
    """Shapes with their shardings."""
    return jax.tree.map(lambda x, cut: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), shapes, shardings)


def _bytes_per_device(tree):
    """Of a tree of `jax.ShapeDtypeStruct` with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        itemsize = 8 if is_key else leaf.dtype.itemsize
        total += int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * itemsize
    return total


def _kind(devices):
    """Number and kind."""
    return f"{len(devices)} x {devices[0].device_kind}"


def _memory(device, topology):
    """Bytes of one device, or None."""
    if topology:
        gib = _MEMORY_GIB.get(topology.partition(":")[0])
        return gib and gib * 2**30
    return (device.memory_stats() or {}).get("bytes_limit")

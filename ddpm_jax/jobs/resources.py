"""Estimates the resources of a run before it starts: memory, arithmetic, traffic, and the speed that they permit.

The train step is compiled and XLA's analysis of it is read; no state is allocated and no image is read. With a
topology such as "v5e:4x4" the step is compiled for that TPU slice, on any machine that has `libtpu` installed. Read
next: `costs.py`, `plans.py`.
"""

import math
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import CUSTOM, check_ranges, ignored
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.jobs import costs
from ddpm_jax.jobs.plans import Plan, limit_lines
from ddpm_jax.runtime.devices import all_devices, check_divides, device_mesh, replicated, sharded, split
from ddpm_jax.runtime.quiet import quieten_libtpu
from ddpm_jax.training.loop import compiled_step, state_shapes
from ddpm_jax.training.state import TrainState, Tree

_MEMORY_GIB = {"v3": 16, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # of one device, as Google Cloud documents it
_TOPOLOGY = r"(?:([1-9]\d*)x)?(v\d+[a-z]*:[1-9]\d*(?:x[1-9]\d*)+)"
_LOCKED = (
    "libtpu serves one program of a machine at a time, and another one uses it: wait until that has ended, "
    "or set ALLOW_MULTIPLE_LIBTPU_LOAD=1 if neither runs on a TPU"
)
_REMEDY = (
    "reduce the state (config.mesh.fsdp), the batch (config.train.accumulation) or the activations (config.model.remat)"
)


def plan(config: ConfigDict, *, topology: str | None = None, num_images: int = 1) -> Plan:
    """Compiles the train step of a configuration and returns the resources that it takes.

    Args:
      config: configuration.
      topology: TPU slices, as for `topology_devices`; None for the devices of this machine.
      num_images: the size of the training set; only the KL of a posterior depends on it, the plan does not.

    Raises:
      UserError: a number is out of range, a key has no effect, the devices or the batch do not divide, `libtpu` is
        missing, or the step does not fit.
    """
    check_ranges(config)
    if in_vain := ignored(config):
        raise UserError(in_vain[0])
    devices = all_devices() if topology is None else topology_devices(topology)
    mesh = device_mesh(devices, fsdp=config.mesh.fsdp)
    check_divides(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
    model = factory.network(config)
    spec = factory.train_spec(config, model, num_images=num_images)
    shapes = state_shapes(factory.state_init(config, model, spec))
    state, batch = abstract_arguments(config, mesh, shapes)
    traced = undivided = compiled_step(spec, mesh, shapes).trace(state, batch)
    if spec.accumulation > 1:
        undivided = compiled_step(costs.undivided(spec), mesh, shapes).trace(state, batch)
    platform = (mesh.devices.flat[0].platform,)
    try:
        with warnings.catch_warnings():  # the cache may hold this step, compiled for devices that are not here
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
            compiled = traced.lower(lowering_platforms=platform).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the step does not fit on {_kind(devices)}: {first_line(error)}; {_REMEDY}") from error
    memory, program = compiled.memory_analysis(), compiled.as_text() or ""
    looped = spec.accumulation > 1 and costs.has_loop(program, spec.accumulation)  # XLA counts what is in it once
    sent, sent_is_all = costs.bytes_sent(program, mesh.size)
    assert memory is not None, "XLA knows it on CPUs, GPUs and TPUs"
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        kind=devices[0].device_kind,
        mesh=dict(mesh.shape),
        parts=_parts(state),
        batch=_bytes_per_device(batch),
        temporaries=memory.temp_size_in_bytes,
        flops=_known(costs.flops(undivided.lower(lowering_platforms=platform)) / mesh.size),
        traffic=None if looped else _known((compiled.cost_analysis() or {}).get("bytes accessed", math.nan)),
        sent=sent,
        sent_is_all=sent_is_all,
        memory=_memory(devices[0], topology),
    )


def abstract_arguments(
    config: ConfigDict, mesh: Mesh, shapes: TrainState, *, num_images: int | None = None
) -> tuple[Tree, Tree]:
    """Returns the arguments of a train step, state and batch, with `jax.ShapeDtypeStruct` in place of arrays.

    Args:
      config: configuration.
      mesh: the devices.
      shapes: the shapes of the state.
      num_images: the size of the data set, if the step gathers its images from it, or None.
    """
    size, channels, batch_size = config.data.image_size, config.data.channels, config.train.batch_size

    def examples(count: int, sharding: NamedSharding) -> dict[str, jax.ShapeDtypeStruct]:
        image = jax.ShapeDtypeStruct((count, size, size, channels), np.uint8, sharding=sharding)
        return {"image": image, "label": jax.ShapeDtypeStruct((count,), np.int32, sharding=sharding)}

    state = _placed(shapes, sharded(mesh, shapes))
    if num_images is None:
        return state, examples(batch_size, split(mesh))
    index = jax.ShapeDtypeStruct((batch_size,), np.int32, sharding=split(mesh))
    return state, (examples(num_images, replicated(mesh)), index)


def table(config: ConfigDict, plan: Plan) -> list[str]:
    """Returns the plan as lines to print.

    Args:
      config: the configuration of the plan.
      plan: the result of `plan`.

    Raises:
      UserError: the step does not fit into the device's memory.
    """
    gib, needed = 2**30, plan.state + plan.batch + plan.temporaries
    parts = ", ".join(f"{name} {size / gib:.3f}" for name, size in plan.parts.items())
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    lines = [
        f"{config.name}: {plan.parameters:,} parameters, batch {config.train.batch_size}, {config.model.dtype}",
        f"devices          {plan.num_devices} x {plan.kind}, mesh {axes}",
        f"state            {plan.state / gib:9.3f} GiB per device ({parts})",
        f"batch            {plan.batch / gib:9.3f} GiB",
        f"temporaries      {plan.temporaries / gib:9.3f} GiB (activations and gradients, by XLA)",
        f"total            {needed / gib:9.3f} GiB"
        + (f" of {plan.memory / gib:.0f}" if plan.memory else "; the memory of the device is unknown"),
        *(["data set         stored on each device in addition"] if config.data.on_device else []),
        *_assumed(config),
        *limit_lines(plan, batch_size=config.train.batch_size),
    ]
    if plan.memory and needed > plan.memory:
        raise UserError(f"the step needs {needed / gib:.1f} of {plan.memory / gib:.0f} GiB per device; {_REMEDY}")
    return lines


def _assumed(config: ConfigDict) -> list[str]:
    """The line that says which images the plan assumes, where those of a program may be others."""
    data = config.data
    if data.source != CUSTOM:
        return []
    form = f"{data.image_size}x{data.image_size}, {data.channels} channel{'s' * (data.channels != 1)}"
    return [f"images           {form}: set data.image_size and data.channels to those of your source"]


def topology_devices(name: str) -> Sequence[jax.Device]:
    """Returns the devices of TPU slices, which this machine need not have, to compile for them.

    Args:
      name: a slice, such as "v5e:4x4", or several that are connected by the network of the data centre: "2xv5e:4x4".

    Raises:
      UserError: `libtpu` is not installed or in use by another program, or there is no such slice.
    """
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    quieten_libtpu()
    found = re.fullmatch(_TOPOLOGY, name)
    if not found:
        raise UserError(f"topology={name} is not a TPU slice: write it as v5e:4x4 or v4:2x2x4, two as 2xv5e:4x4")
    slices, kind = int(found[1] or 1), found[2]
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError("a topology needs the compiler for TPUs: pip install libtpu") from None
    try:
        # A chip of v4 has two cores: this setting joins them into one device, as on a real slice.
        options: dict[str, Any] = {"chip_config_name": "megacore"} if kind.startswith("v4:") else {}
        options |= {"num_slices": slices} if slices > 1 else {}
        return topologies.get_topology_desc(kind, platform="tpu", **options).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if "libtpu multi-process lockfile" in str(error):
            raise UserError(f"topology={name}: {_LOCKED}") from error
        raise UserError(f"topology={name}: {first_line(error)}; write it as v5e:4x4 or v4:2x2x4") from error


def _parts(state: TrainState) -> dict[str, int]:
    """Returns the bytes that each part of the state takes on each device."""
    rest = (state.step, state.times, state.key, state.recent)
    named = {"parameters": state.params, "average": state.ema_params, "optimiser": state.opt_state, "other": rest}
    named |= {"teacher": state.teacher} if jax.tree.leaves(state.teacher) else {}
    return {name: _bytes_per_device(tree) for name, tree in named.items()}


def _known(number: float) -> float | None:
    """Returns a number that XLA has counted; None where it has not."""
    return number if math.isfinite(number) and number > 0 else None


def _placed(shapes: Tree, shardings: Tree) -> Tree:
    """Returns a tree of `jax.ShapeDtypeStruct` with the shardings of a tree of the same structure."""
    return jax.tree.map(lambda x, cut: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), shapes, shardings)


def _bytes_per_device(tree: Tree) -> int:
    """Returns the bytes that a tree of `jax.ShapeDtypeStruct` with shardings takes on each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        itemsize = 8 if is_key else leaf.dtype.itemsize
        total += int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * itemsize
    return total


def _kind(devices: Sequence[jax.Device]) -> str:
    """Returns the number and the kind of the devices, such as "8 x TPU v4"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def _memory(device: jax.Device, topology: str | None) -> int | None:
    """Returns the memory of one device in bytes, or None if it is unknown."""
    if topology:
        gib = _MEMORY_GIB.get(topology.partition(":")[0].rpartition("x")[2])
        return gib and gib * 2**30
    return (device.memory_stats() or {}).get("bytes_limit")

"""Devices: one mesh over all of them, over which the batch is split; the state is replicated or split as well.

The mathematics does not depend on devices. A program jits it with these shardings and XLA adds the communication: the
mean over a sharded batch is the mean over the whole batch, and a state split over the axis "fsdp" is gathered where it
is used. On many hosts every process runs the same program; only the first one writes files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, overload

import absl.logging
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.errors import AgreedError, TransientError, UserError, causes, first_line, is_transient
from ddpm_jax.runtime.quiet import quieten_libtpu

ShapeTree: TypeAlias = Any
"""A tree whose leaves have a shape: arrays, or `jax.ShapeDtypeStruct` of them."""

ShardingTree: TypeAlias = Any
"""A tree of the same structure as another, whose leaves are the shardings of that one's leaves."""


_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "OUT_OF_RANGE")
"""The codes of errors of JAX that say nothing of other processes."""
_OF_PEERS = ("Gloo", "onnection closed by peer", "onnection reset by peer", "oordination service", "oordinationService")
"""What only errors about other processes say."""


def all_devices() -> list[jax.Device]:
    """The devices of all processes; every job calls this first, so that libtpu prints nothing where there is no TPU.

    Raises:
      UserError: JAX finds no device of the kind that JAX_PLATFORMS names.
    """
    if absl.logging.get_verbosity() < absl.logging.INFO:
        quieten_libtpu()
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without a message, if JAX has no code for the kind
        asked = jax.config.jax_platforms  # pyrefly: ignore[missing-attribute]  # jax adds it while it is imported
        if not asked:
            raise
        reason = f" ({first_line(error).partition(' (set JAX_')[0]})" if str(error) else ""
        raise UserError(
            f"JAX_PLATFORMS={asked} asks for a device that this machine does not have or this JAX does "
            f"not support{reason}: unset it to use the devices that exist, or install JAX for it (pip install "
            "'jax[cuda13]' or 'jax[tpu]')"
        ) from error


def device_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """The mesh over the given devices (all by default), with the axes "data" and "fsdp", the latter of the given size.

    On TPUs the devices along an axis are neighbours in the topology, and those along "fsdp", which exchange most, are
    of one slice; elsewhere they are in their own order.

    Raises:
      UserError: the number of devices (of a slice, if there are several) is not a multiple of it, or JAX finds no
        device.
    """
    chosen = list(devices if devices is not None else all_devices())
    is_tpu = chosen[0].platform == "tpu"  # elsewhere a host has that number too
    slices = len({getattr(device, "slice_index", 0) for device in chosen}) if is_tpu else 1
    size = len(chosen) // slices
    if size % fsdp:
        raise UserError(f"config.mesh.fsdp={fsdp} does not divide {size} devices{' of a slice' if slices > 1 else ''}")
    shape, options = (size // fsdp, fsdp), {"allow_split_physical_axes": True}
    if slices > 1:
        arranged = mesh_utils.create_hybrid_device_mesh(shape, (slices, 1), chosen, **options)
    else:
        arranged = mesh_utils.create_device_mesh(shape, chosen, **options)
    return Mesh(arranged, ("data", "fsdp"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array of which every device has a whole copy."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose first axis is split over all devices, such as a batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def own_rows(mesh: Mesh, batch_size: int, process: int | None = None) -> np.ndarray:
    """The rows of a global batch that the devices of a process hold, in rising order: integers `[B of the process]`.

    Args:
      mesh: the devices.
      batch_size: B, the rows of all processes, a multiple of the number of devices.
      process: the number of the process; by default this one.
    """
    number = jax.process_index() if process is None else process
    own = [device.process_index == number for device in mesh.devices.flat]
    return np.flatnonzero(np.repeat(own, batch_size // mesh.size))


def sharded(mesh: Mesh, tree: ShapeTree) -> ShardingTree:
    """Shardings of a state: each leaf is split over "fsdp" along its longest axis whose length is a multiple of it.

    A leaf without such an axis is replicated, and so is every leaf if "fsdp" has one device.
    """
    num = mesh.shape["fsdp"]

    def of(leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        fitting = [axis for axis, length in enumerate(leaf.shape) if length % num == 0]
        if num == 1 or not fitting:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(of, tree)


@overload
def global_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array: ...
@overload
def global_batch(mesh: Mesh, batch: Mapping[str, object]) -> dict[str, jax.Array]: ...
def global_batch(mesh: Mesh, batch: Any) -> Any:
    """A tree of host arrays, the rows `own_rows` of a batch, as global arrays, which are split over the mesh."""
    num_own = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)

    def placed(own: np.ndarray) -> jax.Array:
        size = len(own) * mesh.size // num_own  # of the whole batch
        rows = own_rows(mesh, size)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None, "it is of the rows of a device"
            begin = int(np.searchsorted(rows, index[0].start or 0))
            return own[begin : begin + size // mesh.size]

        return jax.make_array_from_callback((size, *own.shape[1:]), split(mesh), part)

    return jax.tree.map(placed, batch)


def padded(indices: np.ndarray, multiple: int) -> np.ndarray:
    """Indices `[N]`, N at least 1, whose last one is repeated until their number is a multiple of another."""
    return np.pad(indices, (0, -len(indices) % multiple), mode="edge")


def is_first() -> bool:
    """Whether this process is the one that writes logs, pictures and numbers."""
    return jax.process_index() == 0


def to_host(array: jax.Array) -> np.ndarray:
    """A whole global array as a NumPy array, on every host."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def agreed(values: np.ndarray) -> np.ndarray:
    """The values of the first process, on every process; their shape must be the same on all processes."""
    return np.asarray(multihost_utils.broadcast_one_to_all(values)) if jax.process_count() > 1 else values


def lost_connection(error: BaseException) -> bool:
    """Whether an exception says that another process no longer answers.

    It is one of JAX, and not a fault of this process; or it, or one from which it was raised, names what connects the
    processes, whatever its type: what is thrown at a first exchange is a `ValueError`.
    """
    if not jax.distributed.is_initialized():
        return False
    if any(sign in str(cause) for cause in causes(error) for sign in _OF_PEERS):
        return True
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return of_jax and not any(code in str(error).partition(":")[0] for code in _OWN_FAULTS)


def by_first(action: Callable[[], object]) -> None:
    """Runs an action on the first process alone, such as writing a file; all others wait for it.

    Raises:
      AgreedError: the action failed; every process raises this, from a `TransientError` if it may pass by itself. A
        single process raises the error itself.
    """
    failure: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:
            if jax.process_count() == 1:
                raise
            failure = error
    failed, transient = agreed(np.array([failure is not None, failure is not None and is_transient(failure)]))
    if failed:
        message = first_line(failure) if failure else "the first process failed; its own message says why"
        raise AgreedError(message) from (failure or (TransientError(message) if transient else None))


def check_divides(mesh: Mesh, *, batch_size: int, accumulation: int = 1) -> None:
    """Raises a UserError if a batch cannot be split evenly over the devices and the accumulation steps."""
    if batch_size % (mesh.size * accumulation):
        devices = f"{mesh.size} device{'s' if mesh.size > 1 else ''}"
        times = f" times {accumulation} accumulation steps" if accumulation > 1 else ""
        unit = mesh.size * accumulation
        nearest = max(1, round(batch_size / unit)) * unit
        raise UserError(
            f"a batch of {batch_size} images cannot be divided evenly over {devices}{times}; use "
            f"config.train.batch_size={nearest}"
        )

"""Devices: one mesh over all of them, the batch cut along it, the state whole on each or cut as well.

The mathematics knows no device. A program jits it with these shardings and XLA adds the communication: the mean over a
sharded batch is the mean over the whole batch, and a state cut over the axis "fsdp" is gathered where it is used.
On many hosts every process runs the same program; the first one writes.
"""

from collections.abc import Callable, Sequence

import absl.logging
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.errors import AgreedError, UserError, first_line
from ddpm_jax.runtime.quiet import quieten_libtpu


def all_devices() -> list[jax.Device]:
    """The devices of all processes; every job asks here first, so that libtpu prints nothing where there is no TPU.

    Raises:
      UserError: JAX has none of the kind that JAX_PLATFORMS names.
    """
    if absl.logging.get_verbosity() < absl.logging.INFO:
        quieten_libtpu()
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without a word, where JAX has no code for the kind
        asked = jax.config.jax_platforms
        if not asked:
            raise
        reason = f" ({first_line(error).partition(' (set JAX_')[0]})" if str(error) else ""
        raise UserError(
            f"JAX_PLATFORMS={asked} asks for a device that is not here, or that this JAX has no support for{reason}: "
            "unset it to take what there is, or install JAX for it (pip install 'jax[cuda13]' or 'jax[tpu]')"
        ) from error


def device_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """The mesh over the given devices (all by default), with the axes "data" and "fsdp", the latter of the given size.

    Raises:
      UserError: the devices do not divide by it, or there are none.
    """
    devices = np.array(devices if devices is not None else all_devices())
    if devices.size % fsdp:
        raise UserError(f"config.mesh.fsdp={fsdp} does not divide {devices.size} devices")
    return Mesh(devices.reshape(-1, fsdp), ("data", "fsdp"))


def replicated(mesh):
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh):
    """The sharding of what is cut along its first axis over all devices, the batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def sharded(mesh, tree):
    """Shardings of a state (arrays or their shapes): each leaf cut over "fsdp" along its longest axis that divides.

    A leaf without such an axis, and everything where "fsdp" has one device, is whole on each.
    """
    num = mesh.shape["fsdp"]

    def of(leaf):
        fitting = [axis for axis, length in enumerate(leaf.shape) if length % num == 0]
        if num == 1 or not fitting:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(of, tree)


def global_batch(mesh, batch):
    """Host arrays (this process's part of the batch) as global arrays cut along the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split(mesh), x), batch)


def is_first():
    """Whether this process is the one that writes logs, pictures and numbers."""
    return jax.process_index() == 0


def to_host(array):
    """The whole of a global array as a NumPy array, on every host."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def agreed(values):
    """What the first process holds, a NumPy array of one shape everywhere, on every process."""
    return np.asarray(multihost_utils.broadcast_one_to_all(values)) if jax.process_count() > 1 else values


def by_first(action: Callable[[], object]) -> None:
    """Has the first process do alone what only it does, such as writing a file; all others wait for it.

    Raises:
      AgreedError: it failed; on every process. Of a single process the error itself is raised.
    """
    failure = None
    if is_first():
        try:
            action()
        except Exception as error:
            if jax.process_count() == 1:
                raise
            failure = error
    if agreed(np.array(failure is not None)):
        raise AgreedError(first_line(failure) if failure else "the first process failed, and says why") from failure


def check_divides(mesh, *, batch_size, accumulation=1):
    """Raises a UserError where a batch cannot be cut evenly over the devices and the accumulation steps."""
    if batch_size % (mesh.size * accumulation):
        devices = f"{mesh.size} device{'s' if mesh.size > 1 else ''}"
        times = f" times {accumulation} accumulation steps" if accumulation > 1 else ""
        unit = mesh.size * accumulation
        nearest = max(1, round(batch_size / unit)) * unit
        raise UserError(
            f"a batch of {batch_size} does not divide over {devices}{times}; use --config.train.batch_size={nearest}"
        )

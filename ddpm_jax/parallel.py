"""Devices: one mesh over all of them, the batch split along it, the state on each.

The mathematics knows no device. A program jits it with these shardings and XLA adds the communication: the mean over a
sharded batch is the mean over the whole batch.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.errors import UserError


def device_mesh(devices=None):
    """The mesh with one axis, "data", over the given devices (all by default)."""
    return Mesh(np.array(devices if devices is not None else jax.devices()), ("data",))


def replicated(mesh):
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh):
    """The sharding of what is cut along its first axis, the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def global_batch(mesh, batch):
    """Host arrays (this process's part of the batch) as global arrays cut along the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split(mesh), x), batch)


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

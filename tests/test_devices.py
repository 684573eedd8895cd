"""The mesh over the devices of pods, and which rows of a batch a host reads: on devices that are only described."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import device_mesh, own_rows


@dataclass(frozen=True)
class Chip:
    """A TPU chip as JAX describes it."""

    id: int
    coords: tuple[int, int, int]
    process_index: int
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0


def chips(rows, columns, *, slices=1, order=1):
    """Slices of rows x columns chips; a host has a square of four of them, as on v5e."""
    hosts = rows * columns // 4
    found = []
    for index in range(slices):
        for y in range(rows):
            for x in range(columns):
                host = index * hosts + (y // 2) * (columns // 2) + x // 2
                found.append(Chip(len(found), (x, y, 0), host, index))
    return found[::order]


def neighbours(first, second):
    """Whether two chips of one slice are connected."""
    return sum(abs(a - b) for a, b in zip(first.coords, second.coords, strict=True)) == 1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_devices_along_fsdp_are_neighbours_of_one_slice(fsdp, order):
    mesh = device_mesh(chips(4, 4, slices=2, order=order), fsdp=fsdp)
    assert dict(mesh.shape) == {"data": 32 // fsdp, "fsdp": fsdp}
    assert sorted(device.id for device in mesh.devices.flat) == list(range(32))
    for row in mesh.devices:
        assert len({device.slice_index for device in row}) == 1
        if fsdp in (2, 4):
            assert all(neighbours(a, b) for a, b in itertools.pairwise(row))
    halves = [{device.slice_index for device in half.flat} for half in np.split(mesh.devices, 2)]
    assert sorted(map(sorted, halves)) == [[0], [1]]  # what crosses the slices is one exchange along "data"


@pytest.mark.parametrize(("slices", "fsdp"), [(1, 1), (1, 4), (2, 2), (2, 16)])
def test_the_rows_of_all_hosts_are_the_batch_and_each_is_on_a_device_of_its_host(slices, fsdp):
    mesh = device_mesh(chips(4, 4, slices=slices), fsdp=fsdp)
    batch_size = 3 * mesh.size
    hosts = range(4 * slices)
    rows = [own_rows(mesh, batch_size, host) for host in hosts]
    assert sorted(np.concatenate(rows)) == list(range(batch_size))
    devices = list(mesh.devices.flat)
    for host, own in zip(hosts, rows, strict=True):
        assert list(own) == sorted(own)
        assert {devices[row // 3].process_index for row in own} == {host}


def test_fsdp_must_divide_the_devices_of_a_slice():
    with pytest.raises(UserError, match=r"^config\.mesh\.fsdp=32 does not divide 16 devices of a slice$"):
        device_mesh(chips(4, 4, slices=2), fsdp=32)
    with pytest.raises(UserError, match=r"^config\.mesh\.fsdp=3 does not divide 8 devices$"):
        device_mesh(fsdp=3)


def test_hosts_of_gpus_are_no_slices():
    """XLA gives GPUs and CPUs the number of their host as that of a slice."""
    gpus = [Chip(i, (0, 0, 0), i // 8, i // 8, platform="gpu", device_kind="NVIDIA H100 80GB HBM3") for i in range(32)]
    assert [device.id for device in device_mesh(gpus, fsdp=16).devices.flat] == list(range(32))


def test_other_devices_keep_their_order():
    mesh = device_mesh(fsdp=2)
    assert [device.id for device in mesh.devices.flat] == list(range(8))
    assert list(own_rows(mesh, 16)) == list(range(16))

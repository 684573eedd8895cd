"""The peak rates of devices, as their makers state them: dense products of bfloat16 numbers, and device memory.

Sources: docs.cloud.google.com/tpu/docs (the pages v2, v3, v4, v5e, v5p, v6e and tpu7x) and NVIDIA's data sheets of the
A100, H100, H200, B200, L4 and L40S, without sparsity.
"""

from typing import NamedTuple


class Peak(NamedTuple):
    """The peak rates of one device.

    Attributes:
      flops: floating-point operations per second, in products of bfloat16 numbers that are added in float32.
      bytes_per_s: bytes per second that are read from its memory or written to it.
    """

    flops: float
    bytes_per_s: float


# TFLOP/s and GB/s.
_PEAKS = {
    "TPU v2": (22.5, 350),  # JAX shows each of the two cores of a chip as a device, and so of v3 and 7x
    "TPU v3": (61.5, 450),
    "TPU v4": (275, 1200),
    "TPU v5 lite": (197, 819),
    "TPU v5e": (197, 819),
    "TPU v5": (459, 2765),
    "TPU v5p": (459, 2765),
    "TPU v6 lite": (918, 1640),
    "TPU v6e": (918, 1640),
    "TPU7x": (1153.5, 3685),
    "NVIDIA A100": (312, 1555),  # with 40 GB
    "NVIDIA A100 SXM4 80GB": (312, 2039),
    "NVIDIA A100 80GB PCIe": (312, 1935),
    "NVIDIA H100 PCIe": (756, 2000),
    "NVIDIA H100 NVL": (835, 3900),
    "NVIDIA H100": (989.4, 3350),
    "NVIDIA H200 NVL": (835, 4800),
    "NVIDIA H200": (989.4, 4800),
    "NVIDIA B200": (2250, 8000),
    "NVIDIA L4": (121, 300),
    "NVIDIA L40S": (362, 864),
}


def peak_of(device_kind: str) -> Peak | None:
    """The peak rates of a device by its `jax.Device.device_kind`; None if they are not known.

    NVIDIA's names go on with the memory, as in "NVIDIA H100 80GB HBM3", so the longest name that begins one counts.
    """
    names = [name for name in _PEAKS if f"{device_kind} ".replace("-", " ").startswith(f"{name} ")]
    if not names:
        return None
    teraflops, gigabytes = _PEAKS[max(names, key=len)]
    return Peak(teraflops * 1e12, gigabytes * 1e9)

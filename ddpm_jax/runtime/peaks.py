"""The peak speed of devices, as their makers state it for dense products of bfloat16 numbers."""

_TERAFLOPS = {
    "TPU v2": 22.5,  # JAX shows each of the two cores of a chip as a device, and so of v3 and 7x
    "TPU v3": 61.5,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 1153.5,
    "NVIDIA A100": 312,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H100": 989.4,
    "NVIDIA H200 NVL": 835,
    "NVIDIA H200": 989.4,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
}


def peak_flops(device_kind: str) -> float | None:
    """Floating-point operations per second of one device, by `jax.Device.device_kind`; None if it is not known.

    NVIDIA's names go on with the memory, as in "NVIDIA H100 80GB HBM3", so the longest name that begins one counts.
    """
    names = [name for name in _TERAFLOPS if f"{device_kind} ".replace("-", " ").startswith(f"{name} ")]
    return _TERAFLOPS[max(names, key=len)] * 1e12 if names else None

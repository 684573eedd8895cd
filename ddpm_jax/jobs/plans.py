"""The resources that a step takes, and the speed that it cannot exceed: its arithmetic and traffic at peak rates."""

import math
from typing import NamedTuple

from ddpm_jax.runtime.peaks import Peak, peak_of


class Plan(NamedTuple):
    """The resources that a step takes; sizes are in bytes per device.

    Attributes:
      parameters: the number of parameters of the network.
      kind: the kind of the devices, `jax.Device.device_kind`.
      mesh: `{axis: size}`.
      parts: the sizes of the parts of the state, by name.
      batch: the size of the device's part of the batch.
      temporaries: the peak size of activations and gradients, by XLA's analysis.
      flops: floating-point operations of one step on one device, before XLA optimises it; None if it cannot count them.
      traffic: what one step reads from the memory of one device and writes to it, by XLA's analysis; None as `flops`.
      sent: what one device sends to others in one step, by the kind of the exchange, see `costs.bytes_sent`.
      sent_is_all: whether that is all of it; it is not where XLA does not know how often a loop sends.
      memory: the memory of the device, or None if it is unknown.
    """

    parameters: int
    kind: str
    mesh: dict[str, int]
    parts: dict[str, int]
    batch: int
    temporaries: int
    flops: float | None
    traffic: float | None
    sent: dict[str, float]
    sent_is_all: bool
    memory: int | None

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return math.prod(self.mesh.values())

    @property
    def state(self) -> int:
        """The size of the whole state."""
        return sum(self.parts.values())


def least_seconds(plan: Plan, peak: Peak) -> dict[str, float]:
    """The seconds that the arithmetic of a step and its memory traffic would take alone, by name, as far as known."""
    parts = {"arithmetic": (plan.flops, peak.flops), "memory traffic": (plan.traffic, peak.bytes_per_s)}
    return {name: amount / rate for name, (amount, rate) in parts.items() if amount is not None}


def limit_lines(plan: Plan, *, batch_size: int) -> list[str]:
    """The arithmetic, the traffic and the limit of a plan as lines to print.

    Args:
      plan: the result of `resources.plan`.
      batch_size: images per step, over all devices.
    """
    peak = peak_of(plan.kind)
    seconds = least_seconds(plan, peak) if peak else {}
    at_peak = {name: f", {1000 * least:.3f} ms at its peak" for name, least in seconds.items()}
    arithmetic = "not counted by XLA" if plan.flops is None else f"{plan.flops / 1e12:9.3f} TFLOP per step and device"
    traffic = "not counted by XLA" if plan.traffic is None else f"{plan.traffic / 1e9:9.3f} GB per step and device"
    kinds = ", ".join(f"{kind} {count / 1e9:.3f}" for kind, count in plan.sent.items())
    sent = sum(plan.sent.values()) / 1e9
    exchanged = f"{sent:9.3f}" if plan.sent_is_all else f"at least {sent:.3f}"
    return [
        f"arithmetic       {arithmetic}{at_peak.get('arithmetic', '')}",
        f"memory traffic   {traffic}{at_peak.get('memory traffic', '')}",
        f"sent to others   {exchanged} GB per step and device{f' ({kinds})' if kinds else ''}",
        _best(plan, seconds, batch_size=batch_size),
    ]


def _best(plan: Plan, seconds: dict[str, float], *, batch_size: int) -> str:
    """The line of the limit."""
    if peak_of(plan.kind) is None:
        return f"at best          unknown: the peak rates of {plan.kind} are not in runtime/peaks.py"
    if len(seconds) < 2:  # the other one may be the longer
        return "at best          unknown: XLA does not count all of it"
    longest = max(seconds, key=lambda name: seconds[name])
    return f"at best       {batch_size / seconds[longest]:12,.0f} images/s, by the {longest}"

"""The results of the metrics as lines to print."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from ddpm_jax.errors import shortened

Result: TypeAlias = Mapping[str, Any]
"""The result of a metric, as its JSON file has it."""


def of_bound(result: Result) -> list[str]:
    """The bound and its terms."""
    return [
        f"bound          {result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim",
        f"  L_T          {result['L_T']:.3g}",
        f"  L_(t-1) sum  {result['L_between']:.4f}   ({len(result['terms']) - 1} terms)",
        f"  L_0          {result['L_0']:.4f}",
    ]


def of_likelihood(result: Result) -> list[str]:
    """The likelihood by the probability-flow ODE, with the decoder and with dequantised images."""
    decoded, solved = result["with_decoder"], f"({result['trace']} trace, {result['num_steps']} steps)"
    return [
        f"ODE likelihood {decoded['bits_per_dim']:.4f} +- {decoded['standard_error']:.4f} bits/dim from x_1, "
        "with the bound's L_0",
        f"               {result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim with uniform "
        f"dequantisation {solved}",
    ]


def of_spectrum(result: Result) -> list[str]:
    """The time at which each frequency band settles."""
    settled = ", ".join(f"{k}: {t:g}" for k, t in enumerate(result["settling_time"]))
    return [f"spectrum       t at which each frequency band settles  {settled}"]


def of_accuracy(result: Result) -> list[str]:
    """The accuracy of a classifier over t and by class."""
    by_t = list(zip(result["times"], result["accuracy_by_t"], strict=True))[::5]
    return [
        f"accuracy       {result['accuracy']:.4f} on clean images, {result['nll_nats']:.4f} nats, "
        f"calibration error {result['calibration_error']:.4f}",
        "  by t         " + ", ".join(f"{t:g}: {a:.2f}" for t, a in by_t),
        "  by class     " + _by_class(result),
    ]


def of_numbers(result: Result) -> list[str]:
    """The numbers of any result, one line each."""
    return [f"  {key:<12} {value:g}" for key, value in result.items() if isinstance(value, int | float)]


def _by_class(result: Result) -> str:
    """The accuracy of each class that has images, by name; of more than ten classes, that of the ten worst."""
    names = result["class_names"] or range(len(result["accuracy_by_class"]))
    known = [(a, name) for name, a in zip(names, result["accuracy_by_class"], strict=True) if a is not None]
    shown = known if len(known) <= 10 else sorted(known, key=lambda pair: pair[0])[:10]
    left = f", and {len(known) - len(shown)} classes with at least that" if len(known) > len(shown) else ""
    return ", ".join(f"{shortened(name, 40)}: {a:.2f}" for a, name in shown) + left

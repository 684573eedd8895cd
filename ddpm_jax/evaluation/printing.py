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
        f"  L_0          {result['L_0']:.4f}" + ("   (tanh approximation)" if result["decoder"] == "tanh" else ""),
    ]


def of_likelihood(result: Result) -> list[str]:
    """The likelihood by the probability-flow ODE, with the decoder and with dequantised images."""
    decoded, probes = result["with_decoder"], result["num_probes"]
    return [
        f"ODE likelihood {_with_errors(decoded)} from x_1, with the bound's L_0",
        f"               {_with_errors(result)} with uniform dequantisation",
        f"  {result['num_steps']} steps, {f'trace by {probes} random directions' if probes else 'exact trace'}",
    ]


def _with_errors(value: Result) -> str:
    """Bits per dimension with the standard error over the images, and what solver and estimated trace add to it."""
    trace = f", of the trace {value['trace_error']:.1g}" if value["trace_error"] else ""
    return (
        f"{value['bits_per_dim']:.4f} +- {value['standard_error']:.4f} bits/dim "
        f"(error of the solver {value['solver_error']:.1g}{trace})"
    )


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


def of_quality(result: Result) -> list[str]:
    """The estimates of a metric of images: each with its standard error and interval of 95 %, and what was compared."""
    named = {key: value for key, value in result.items() if isinstance(value, Mapping) and "value" in value}
    estimates = named or {result["metric"]: result}
    features, images, reference = (result[key] for key in ("features", "images", "reference"))
    of = features.get("protocol", features["features"])
    counts = [f"{about['num_images']:,}" if about.get("num_images") else "?" for about in (images, reference)]
    lines = [f"{name:<14} {_estimate(value)}" for name, value in estimates.items()]
    return [*lines, f"  {counts[0]} images against {counts[1]} of {reference['name']}, features: {of}"]


def of_score(result: Result) -> list[str]:
    """The Inception score, which compares with no reference, with its deviation over the splits."""
    features, value = result["features"], f"{result['metric']:<14} {_estimate(result)}"
    of = features.get("protocol", features["features"])
    return [
        f"{value}   deviation {result['deviation']:.2g}",
        f"  {result['images']['num_images']:,} images, features: {of}",
    ]


def of_memorisation(result: Result) -> list[str]:
    """The ratio of distances to the nearest training image, and what it says."""
    return [
        *of_quality(result),
        f"  median distance to the nearest training image {result['median_distance']:.4g}, of held-out images "
        f"{result['held_out_median_distance']:.4g}; a ratio near 1: no copies, near 0: copies",
    ]


def _estimate(value: Result) -> str:
    """An estimate in one line."""
    text = f"{value['value']:.5g} +- {value['standard_error']:.2g}"
    if "low" in value:
        text += f"   (95 %: {value['low']:.5g} to {value['high']:.5g})"
    if value.get("few"):
        text += "   fewer images than features: mostly bias, see kid"
    return text


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

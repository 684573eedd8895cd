"""The evaluation job: it writes numbers and plots of a trained run, from all devices, to `WORKDIR/evaluation`.

Read next: `measurements.py`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_jax.data.classes import matched
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.images import Images
from ddpm_jax.evaluation.measurements import accuracy, bound, exact_likelihood, power_spectra
from ddpm_jax.runtime.images import write_whole

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

# Each takes (run, images, *, num_steps) and returns values of JSON.
METRICS: dict[str, Callable[..., dict[str, Any]]] = {
    "bpd": bound,
    "nll": exact_likelihood,
    "spectrum": power_spectra,
    "accuracy": accuracy,
}
OF_CLASSIFIERS = {"accuracy"}


def evaluate(
    run: "Run",
    metrics: Sequence[str],
    *,
    source: Source | None = None,
    num_images: int = 500,
    num_steps: int = 0,
    batch_size: int = 100,
) -> dict[str, dict[str, Any]]:
    """Measures a run and writes `WORKDIR/evaluation/METRIC.json` and `METRIC.png`.

    Args:
      run: `Run`.
      metrics: names in `METRICS`.
      source: images to measure on, whose classes are numbered as those of the run, by name; None for the test split of
        the run's data set.
      num_images: number of images.
      num_steps: number of steps of the chain or solver; 0 for the default of each metric.
      batch_size: images at a time.

    Returns:
      `{metric: result}`.

    Raises:
      UserError: a metric is unknown or does not suit this run, or its result is not finite and is not written.
    """
    if not hasattr(run, "params_name"):
        raise UserError(f"evaluate needs an opened run: Run({str(run)!r})")
    if isinstance(metrics, str):
        raise UserError(f"the metrics must be a list of names: [{metrics!r}]")
    folder, results = Path(run.workdir) / "evaluation", {}
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
        if (name in OF_CLASSIFIERS) != (run.config.task == "classify"):
            suited = ", ".join(n for n in METRICS if (n in OF_CLASSIFIERS) == (run.config.task == "classify"))
            raise UserError(f"{run.workdir} has config.task={run.config.task}: choose the metrics from {suited}")
    source = run.source() if source is None else matched(source, run.config.labels.names)
    images = Images(source, num_images=num_images, batch_size=batch_size, mesh=run.mesh)
    for name in metrics:
        result = METRICS[name](run, images, num_steps=num_steps)
        _check_finite(name, result)
        result = {"step": run.step, "params": run.params_name, "num_images": images.num_images, **result}
        text = json.dumps(result, indent=1, allow_nan=False)
        write_whole(folder / f"{name}.json", lambda path, text=text: path.write_text(text))
        if name in plots.PLOTS:
            write_whole(folder / f"{name}.png", plots.PLOTS[name](result).savefig)
        results[name] = result
    return results


def _check_finite(name: str, result: Mapping[str, Any]) -> None:
    """Raises a UserError that names the entries of a metric's result that are not finite."""
    broken = [key for key, value in result.items() if not _is_finite(value)]
    if broken:
        raise UserError(
            f"{name} was not written, because it is not finite ({', '.join(broken)}): the network does not give finite "
            "numbers for these images; try other parameters (--params) or more steps (--num_steps)"
        )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value of JSON are finite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The results of `evaluate` as lines to print."""
    lines = []
    for name, result in results.items():
        if name == "bpd":
            lines += [
                f"bound          {result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim",
                f"  L_T          {result['L_T']:.3g}",
                f"  L_(t-1) sum  {result['L_between']:.4f}   ({len(result['terms']) - 1} terms)",
                f"  L_0          {result['L_0']:.4f}",
            ]
        elif name == "nll":
            decoded, solved = result["with_decoder"], f"({result['trace']} trace, {result['num_steps']} steps)"
            lines += [
                f"ODE likelihood {decoded['bits_per_dim']:.4f} +- {decoded['standard_error']:.4f} bits/dim from x_1, "
                "with the bound's L_0",
                f"               {result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim with uniform "
                f"dequantisation {solved}",
            ]
        elif name == "accuracy":
            lines += [
                f"accuracy       {result['accuracy']:.4f} on clean images, {result['nll_nats']:.4f} nats, "
                f"calibration error {result['calibration_error']:.4f}",
                "  by t         " + ", ".join(f"{t:g}: {a:.2f}" for t, a in _every_fifth(result)),
                "  by class     " + _by_class(result),
            ]
        else:
            settled = ", ".join(f"{k}: {t:g}" for k, t in enumerate(result["settling_time"]))
            lines.append(f"spectrum       t at which each frequency band settles  {settled}")
    return lines


def _by_class(result: Mapping[str, Any]) -> str:
    """The accuracy of each class that has images, by name; of more than ten classes, that of the ten worst."""
    names = result["class_names"] or range(len(result["accuracy_by_class"]))
    known = [(a, name) for name, a in zip(names, result["accuracy_by_class"], strict=True) if a is not None]
    shown = known if len(known) <= 10 else sorted(known, key=lambda pair: pair[0])[:10]
    left = f", and {len(known) - len(shown)} classes with at least that" if len(known) > len(shown) else ""
    return ", ".join(f"{shortened(name, 40)}: {a:.2f}" for a, name in shown) + left


def _every_fifth(result: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Every fifth point `(t, accuracy)` of the curve of accuracy over t."""
    return list(zip(result["times"], result["accuracy_by_t"], strict=True))[::5]

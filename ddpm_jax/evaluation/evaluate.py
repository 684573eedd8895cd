"""The evaluation job: it writes numbers and plots of a trained run, from all devices, to `WORKDIR/evaluation`.

Read next: `measurements.py`.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpm_jax import factory
from ddpm_jax.config import not_one_of
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError, check_counts, shortened
from ddpm_jax.evaluation import plots, printing
from ddpm_jax.evaluation.images import Images
from ddpm_jax.evaluation.measurements import accuracy, bound, exact_likelihood, power_spectra
from ddpm_jax.runtime.images import write_whole

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run


class Metric(NamedTuple):
    """A measurement of a run, as a row of `METRICS` or given to `evaluate` by a program.

    Attributes:
      measure: function `(run, images, *, num_steps)` of the opened `Run` and `Images` to values of JSON.
      lines: function from the result to lines to print.
      plot: function from the result to a figure, or None.
      task: the task of the runs that it measures, "denoise" or "classify".
    """

    measure: Callable[..., dict[str, Any]]
    lines: Callable[[printing.Result], list[str]] = printing.of_numbers
    plot: Callable[[printing.Result], plots.Picture] | None = None
    task: str = "denoise"


METRICS: dict[str, Metric] = {
    "bpd": Metric(bound, printing.of_bound, plots.bound),
    "nll": Metric(exact_likelihood, printing.of_likelihood),
    "spectrum": Metric(power_spectra, printing.of_spectrum, plots.spectrum),
    "accuracy": Metric(accuracy, printing.of_accuracy, plots.accuracy, task="classify"),
}


def evaluate(
    run: "Run",
    metrics: Sequence[str] | Mapping[str, Metric],
    *,
    source: Source | None = None,
    num_images: int = 500,
    num_steps: int = 0,
    batch_size: int = 100,
) -> dict[str, dict[str, Any]]:
    """Measures a run and writes `WORKDIR/evaluation/METRIC.json` and `METRIC.png`.

    Args:
      run: `Run`.
      metrics: names in `METRICS`, or `{name: Metric}`, metrics of a program with their names.
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
    check_counts(num_images=num_images, batch_size=batch_size)
    if not metrics:
        raise UserError(f"no metric is named; choose from {', '.join(METRICS)}")
    folder, results = Path(run.workdir) / "evaluation", {}
    chosen = _chosen(metrics)
    for name, metric in chosen.items():
        if metric.task != run.config.task:
            suited = ", ".join(name for name, known in METRICS.items() if known.task == run.config.task)
            own = "" if name in METRICS else f", or write Metric(..., task={run.config.task!r}) if {name} suits it"
            raise UserError(f"{run.workdir} has config.task={run.config.task}: choose the metrics from {suited}{own}")
    source = run.source() if source is None else factory.fitted(run.config, source)
    images = Images(source, num_images=num_images, batch_size=batch_size, mesh=run.mesh)
    for name, metric in chosen.items():
        measured = _as_json(name, metric.measure(run, images, num_steps=num_steps))
        _check_finite(name, measured)
        about = {"step": run.step, "params": run.params_name, "num_images": images.num_images}
        if taken := measured.keys() & about.keys():
            raise UserError(f"the result of the metric {name} may not have the key {sorted(taken)[0]!r}: rename it")
        result = {**about, **measured}
        text = json.dumps(result, indent=1, allow_nan=False)
        plot = metric.plot(result) if metric.plot else None
        write_whole(folder / f"{name}.json", lambda path, text=text: path.write_text(text))
        if plot:
            write_whole(folder / f"{name}.png", plot.savefig)
        results[name] = result
    return results


def _chosen(metrics: Sequence[str] | Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics of a list of names, or those of a program, with their names.

    Raises:
      UserError: a name is unknown, or as `_of_program`.
    """
    if isinstance(metrics, str):
        raise UserError(f"the metrics must be a list of names: [{metrics!r}]")
    return _of_program(metrics) if isinstance(metrics, Mapping) else {name: _metric(name) for name in metrics}


def _metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
      UserError: there is none of this name.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric {shortened(repr(name))}; choose from {', '.join(METRICS)}")
    return METRICS[name]


def _of_program(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics that a program gives, with their names.

    Raises:
      UserError: one of them is not a `Metric`, its name belongs to a metric of `METRICS`, or it cannot name a file.
    """
    for name, metric in metrics.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"a metric's name must be of letters, digits, _, - and ., and not {shortened(repr(name))}")
        if not isinstance(metric, Metric):
            raise UserError(
                f"the metric {name} must be a Metric, as in Metric(function), not {shortened(repr(metric))}"
            )
        if metric.task not in factory.TASKS:
            raise UserError(
                f"the metric {name} has task={metric.task!r}, which {not_one_of(metric.task, factory.TASKS)}"
            )
        factory.check_callable(metric.measure, f"the metric {name}", "run", "images", keywords=["num_steps"])
        if METRICS.get(name, metric) is not metric:
            raise UserError(f"there is a metric {name} already: give this one another name")
    return dict(metrics)


def _as_json(name: str, result: Any) -> dict[str, Any]:
    """A metric's result with the numbers and arrays of NumPy and JAX as those of Python.

    Raises:
      UserError: it is not a dictionary with text as keys, or a value cannot be written as JSON.
    """
    if not isinstance(result, Mapping) or not all(isinstance(key, str) for key in result):
        raise UserError(f"the metric {name} must return {{name: value}}, and returned {shortened(repr(result))}")
    try:
        return json.loads(json.dumps(result, default=_plain))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the result of the metric {name} has a value that cannot be written as JSON: {error}"
        ) from error


def _plain(value: Any) -> Any:
    """A number or an array of NumPy or JAX as numbers of Python; raises a TypeError for any other object."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufV" or array.dtype.names:
        raise TypeError(f"{type(value).__name__} is neither a number nor an array")
    return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()  # V: bfloat16


def _check_finite(name: str, result: Mapping[str, Any]) -> None:
    """Raises a UserError that names the entries of a metric's result that are not finite."""
    broken = [key for key, value in result.items() if not _is_finite(value)]
    if broken:
        raise UserError(
            f"{name} was not written, because it is not finite ({', '.join(broken)}): the network does not give finite "
            "numbers for these images; try other parameters (params) or more steps (num_steps)"
        )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value of JSON are finite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def table(results: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | Mapping[str, Metric] = ()) -> list[str]:
    """The results of `evaluate` as lines to print.

    Args:
      results: `{metric: result}`.
      metrics: as they were given to `evaluate`; without its metric, the numbers of a program's result are shown.

    Raises:
      UserError: a metric is unknown, or is not a `Metric`.
    """
    known, printed = {**_chosen(metrics), **METRICS}, []
    for name, result in results.items():
        if name not in METRICS:
            printed.append(name)
        printed += (known[name].lines if name in known else printing.of_numbers)(result)
    return printed

"""The evaluation job: it writes numbers and plots of a trained run, from all devices, to `WORKDIR/evaluation`.

Read next: `measurements.py`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_jax.data.classes import matched
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
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
    if isinstance(metrics, str):
        raise UserError(f"the metrics must be a list of names: [{metrics!r}]")
    folder, results = Path(run.workdir) / "evaluation", {}
    chosen = dict(metrics) if isinstance(metrics, Mapping) else {name: _metric(name) for name in metrics}
    for metric in chosen.values():
        if metric.task != run.config.task:
            suited = ", ".join(name for name, known in METRICS.items() if known.task == run.config.task)
            raise UserError(f"{run.workdir} has config.task={run.config.task}: choose the metrics from {suited}")
    source = run.source() if source is None else matched(source, run.config.labels.names)
    images = Images(source, num_images=num_images, batch_size=batch_size, mesh=run.mesh)
    for name, metric in chosen.items():
        result = metric.measure(run, images, num_steps=num_steps)
        _check_finite(name, result)
        result = {"step": run.step, "params": run.params_name, "num_images": images.num_images, **result}
        text = json.dumps(result, indent=1, allow_nan=False)
        write_whole(folder / f"{name}.json", lambda path, text=text: path.write_text(text))
        if metric.plot:
            write_whole(folder / f"{name}.png", metric.plot(result).savefig)
        results[name] = result
    return results


def _metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
      UserError: there is none of this name.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
    return METRICS[name]


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
    """The results of `evaluate` as lines to print; of a metric of a program, its numbers."""
    printed = []
    for name, result in results.items():
        printed += METRICS[name].lines(result) if name in METRICS else [name, *printing.of_numbers(result)]
    return printed

"""The evaluation job: it writes numbers and plots of a trained run, from all devices, to `WORKDIR/evaluation`.

Read next: `measurements.py`.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_jax import factory
from ddpm_jax.config import KINDS, kind, not_one_of
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError, check_counts, did_you_mean, shortened
from ddpm_jax.evaluation import plots, printing
from ddpm_jax.evaluation.comparison import compare
from ddpm_jax.evaluation.images import Images
from ddpm_jax.evaluation.likelihoods import bound, exact_likelihood
from ddpm_jax.evaluation.measurements import accuracy, power_spectra
from ddpm_jax.evaluation.quality import PICTURES, QUALITY, QualityMetric
from ddpm_jax.evaluation.references import reference_of, samples_of
from ddpm_jax.evaluation.results import as_json, check_finite, record
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_whole

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run


NUM_SAMPLES = 5_000
"""Images that are drawn for the metrics of `QUALITY`, if no other number is asked for."""


class Metric(NamedTuple):
    """A measurement of a run, as a row of `METRICS` or given to `evaluate` by a program.

    Attributes:
      measure: function `(run, images, *, num_steps)` of the opened `Run` and `Images` to values of JSON.
      lines: function from the result to lines to print.
      plot: function from the result to a figure, or None.
      task: the kind of the runs that it measures, "denoise" (students are denoisers too) or "classify".
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
    num_images: int | None = None,
    num_steps: int = 0,
    batch_size: int = 100,
    seed: int = 0,
    reference: str | os.PathLike[str] | Source = "",
    features: str = "",
    weights: str | os.PathLike[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measures a run; writes `METRIC.json` and `METRIC.png` to `WORKDIR/evaluation`, and adds to `results.jsonl` there.

    Args:
      run: `Run`.
      metrics: names in `METRICS`, which measure the run on images of its data, and in `QUALITY`, which compare its
        samples with a reference; or `{name: Metric}`, metrics of a program with their names.
      source: images for the metrics of `METRICS`, whose classes are numbered as those of the run, by name; None for the
        test split of the run's data set.
      num_images: number of images of the source, or of samples; None for 500 images and 5,000 samples.
      num_steps: number of steps of the chain or solver; 0 for the default of each metric.
      batch_size: images at a time.
      seed: the seed of the samples.
      reference: what samples are compared with: a source, the path of images or of a reference file, or the name of an
        experiment; "" for the data on which the run was trained.
      features: the features by which they are compared: one of `features.NAMES`, or the work directory of a
        classifier; "" for those of each metric.
      weights: the published file of the weights of these features, where it is not known yet.

    Returns:
      `{metric: result}`.

    Raises:
      UserError: a metric is unknown or does not suit this run, or its result is not finite and is not written.
    """
    if not hasattr(run, "params_name"):
        raise UserError(f"evaluate needs an opened run: Run({str(run)!r})")
    check_counts(batch_size=batch_size, **({} if num_images is None else {"num_images": num_images}))
    chosen = _chosen(metrics, task=kind(run.config), workdir=run.workdir)
    of_run = {name: metric for name, metric in chosen.items() if isinstance(metric, Metric)}
    of_samples = [name for name in chosen if name not in of_run]
    folder, results = any_path(run.workdir) / "evaluation", {}
    if of_run:
        source = run.source() if source is None else factory.fitted(run.config, source)
        images = Images(source, num_images=num_images or 500, batch_size=batch_size, mesh=run.mesh)
        about = {"step": run.step, "params": run.params_name, "num_images": images.num_images}
        for name, metric in of_run.items():
            measured = as_json(name, metric.measure(run, images, num_steps=num_steps))
            if taken := measured.keys() & about.keys():
                raise UserError(f"the result of the metric {name} may not have the key {sorted(taken)[0]!r}: rename it")
            results[name] = _written(folder, name, {**about, **measured}, metric.plot)
    if of_samples:
        options = {"mesh": run.mesh, "features": features, "weights": weights, "batch_size": batch_size}
        samples = samples_of(run, num_images=num_images or NUM_SAMPLES, seed=seed, num_steps=num_steps)
        against = reference_of(reference, run)
        for name, result in compare(samples, against, of_samples, cache=folder / "features", **options).items():
            results[name] = _compared(folder, name, result)
    return {name: results[name] for name in chosen}


def _chosen(
    metrics: Sequence[str] | Mapping[str, Metric], *, task: str, workdir: AnyPath
) -> dict[str, Metric | QualityMetric]:
    """The metrics by name.

    Raises:
      UserError: there is none, or one of them is unknown or belongs to another task.
    """
    if not metrics:
        raise UserError(f"no metric is named; choose from {', '.join((*METRICS, *QUALITY))}")
    chosen, known = _named(metrics), {**METRICS, **QUALITY}
    for name, metric in chosen.items():
        if metric.task != task:
            suited = ", ".join(other for other, row in known.items() if row.task == task)
            own = "" if name in known else f", or write Metric(..., task={task!r}) if {name} suits it"
            raise UserError(f"{workdir} has config.task={task}: choose the metrics from {suited}{own}")
    return chosen


def _named(metrics: Sequence[str] | Mapping[str, Metric]) -> dict[str, Metric | QualityMetric]:
    """The metrics of a list of names, or those of a program, with their names.

    Raises:
      UserError: a name is unknown, or as `_of_program`.
    """
    if isinstance(metrics, str):
        raise UserError(f"the metrics must be a list of names: [{metrics!r}]")
    if isinstance(metrics, Mapping):
        return {**_of_program(metrics)}
    return {name: _metric(name) for name in metrics}


def _written(
    folder: AnyPath, name: str, result: dict[str, Any], draw: Callable[[printing.Result], plots.Picture] | None
) -> dict[str, Any]:
    """The result of a metric, after it was written as JSON, as a plot where it has one, and as a line of the record.

    Raises:
      UserError: it is not finite, and nothing was written; or a file cannot be written.
    """
    check_finite(name, result)
    text, plot = json.dumps(result, indent=1, allow_nan=False), draw(result) if draw else None
    write_whole(folder / f"{name}.json", lambda path: path.write_text(text))
    if plot:
        write_whole(folder / f"{name}.png", plot.savefig)
    record(folder, name, result)
    return result


def _compared(folder: AnyPath, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a metric of `QUALITY`, written as by `_written`, with its images in the plot alone."""
    plot, pictures = QUALITY[name].plot, result.pop(PICTURES, None)
    draw = None if plot is None or pictures is None else lambda known: plot(known, pictures)
    return _written(folder, name, as_json(name, result), draw)


def _metric(name: str) -> Metric | QualityMetric:
    """The metric of a name.

    Raises:
      UserError: there is none of this name.
    """
    known = {**METRICS, **QUALITY}
    if name not in known:
        hint = did_you_mean(str(name), known, otherwise=f"choose from {', '.join(known)}")
        raise UserError(f"there is no metric {shortened(repr(name))}; {hint}")
    return known[name]


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
        if metric.task not in KINDS:
            raise UserError(f"the metric {name} has task={metric.task!r}, which {not_one_of(metric.task, KINDS)}")
        factory.check_callable(metric.measure, f"the metric {name}", "run", "images", keywords=["num_steps"])
        if METRICS.get(name, metric) is not metric or name in QUALITY:
            raise UserError(f"there is a metric {name} already: give this one another name")
    return dict(metrics)


def table(results: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | Mapping[str, Metric] = ()) -> list[str]:
    """The results of `evaluate` as lines to print.

    Args:
      results: `{metric: result}`.
      metrics: as they were given to `evaluate`; without its metric, the numbers of a program's result are shown.

    Raises:
      UserError: a metric is unknown, or is not a `Metric`.
    """
    known, printed = {**_named(metrics), **METRICS, **QUALITY}, []
    for name, result in results.items():
        if name not in METRICS and name not in QUALITY:
            printed.append(name)
        printed += (known[name].lines if name in known else printing.of_numbers)(result)
    return printed

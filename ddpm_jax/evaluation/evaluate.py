"""The evaluation job: numbers and plots of a trained run, over all devices, into `WORKDIR/evaluation`.

Read next: `measurements.py`.
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax.data.classes import matched, usable_names
from ddpm_jax.diffusion.arrays import image_keys, stream
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.measurements import accuracy, bound, exact_likelihood, power_spectra
from ddpm_jax.runtime.devices import split
from ddpm_jax.runtime.images import from_uint8, write_whole


class Images:
    """Images of a source, evenly spaced over it, in batches that divide over the devices, with a key each.

    A folder lists its classes one after the other: its first images would be of one class.

    Args:
      source: data source.
      num_images: how many; fewer if the source has fewer.
      batch_size: images at a time, rounded up to a multiple of the devices.
      mesh: the devices.

    Attributes:
      class_names: of the source, or ().
    """

    def __init__(self, source, *, num_images, batch_size, mesh):
        self.class_names = usable_names(source, getattr(source, "num_classes", 0))
        self._source, self.num_images = source, min(num_images, len(source))
        self._indices = np.arange(self.num_images) * len(source) // max(self.num_images, 1)
        self._batch_size = math.ceil(min(batch_size, self.num_images) / mesh.size) * mesh.size
        self._mesh, key = mesh, stream(jax.random.key(0), "evaluation")
        self._keys = jax.jit(partial(image_keys, key), out_shardings=split(mesh))

    def in_batches_of(self, at_most):
        """The same images in batches of that size or less, for a measurement that takes long."""
        size = min(at_most, self._batch_size)
        return Images(self._source, num_images=self.num_images, batch_size=size, mesh=self._mesh)

    def __len__(self):
        """Number of batches."""
        return math.ceil(self.num_images / self._batch_size)

    def __iter__(self):
        """Yields (x_0 `[B, H, W, C]` in [-1, 1], labels `[B]`, keys `[B]`, how many of the B count)."""
        for begin in range(0, self.num_images, self._batch_size):
            indices = np.arange(begin, begin + self._batch_size)
            chosen = self._indices[np.minimum(indices, self.num_images - 1)]
            examples = [self._source[i] for i in chosen.tolist()]
            images, labels = (np.stack([example[name] for example in examples]) for name in ("image", "label"))
            x_0 = from_uint8(images)
            count = min(self._batch_size, self.num_images - begin)
            yield *jax.device_put((x_0, labels), split(self._mesh)), self._keys(indices), count


METRICS = {"bpd": bound, "nll": exact_likelihood, "spectrum": power_spectra, "accuracy": accuracy}
OF_CLASSIFIERS = {"accuracy"}


def evaluate(run, metrics, *, source=None, num_images=500, num_steps=0, batch_size=100):
    """Measures a run and writes `WORKDIR/evaluation/METRIC.json` and `METRIC.png`.

    Args:
      run: `Run`.
      metrics: names in `METRICS`.
      source: images to measure on, their classes numbered as the run's by name; None for the test split of the run's
        data set.
      num_images: how many of them.
      num_steps: of the chain or solver; 0 for each metric's default.
      batch_size: images at a time.

    Returns:
      `{metric: result}`.

    Raises:
      UserError: a metric is not known or not for this run, or a result is not finite; nothing of it is written.
    """
    folder, results = Path(run.workdir) / "evaluation", {}
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
        if (name in OF_CLASSIFIERS) != (run.config.task == "classify"):
            suited = ", ".join(n for n in METRICS if (n in OF_CLASSIFIERS) == (run.config.task == "classify"))
            raise UserError(f"{run.workdir} was trained to {run.config.task}: measure {suited}")
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
    """Raises a UserError that names what is not finite in a metric's result."""
    broken = [key for key, value in result.items() if not _is_finite(value)]
    if broken:
        raise UserError(
            f"{name}: {', '.join(broken)} not finite, so nothing was written: the network does not give finite numbers "
            "for these images; try other parameters (--params) or more steps (--num_steps)"
        )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value of JSON's are finite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def table(results):
    """The lines that a person reads."""
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
            lines.append(f"spectrum       band: time at which it settles  {settled}")
    return lines


def _by_class(result: dict) -> str:
    """The accuracy of each class that has images, by name; of more than ten classes that of the worst."""
    names = result["class_names"] or range(len(result["accuracy_by_class"]))
    known = [(a, name) for name, a in zip(names, result["accuracy_by_class"], strict=True) if a is not None]
    shown = known if len(known) <= 10 else sorted(known, key=lambda pair: pair[0])[:10]
    left = f", and {len(known) - len(shown)} classes with no less" if len(known) > len(shown) else ""
    return ", ".join(f"{shortened(name, 40)}: {a:.2f}" for a, name in shown) + left


def _every_fifth(result):
    """A few points of the curve of accuracy over t."""
    return list(zip(result["times"], result["accuracy_by_t"], strict=True))[::5]

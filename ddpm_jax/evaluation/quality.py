"""The table of metrics that compare a set of images with a reference: one row for each.

Read next: `metrics/`, which has the numbers; `comparison.py`, which makes the features.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import plots, printing
from ddpm_jax.evaluation.extraction import spread
from ddpm_jax.evaluation.extractors import Extractor
from ddpm_jax.evaluation.feature_sets import FeatureSet
from ddpm_jax.metrics.density_coverage import density_coverage
from ddpm_jax.metrics.frechet import LEAST_EXTRAPOLATED, frechet, frechet_extrapolated
from ddpm_jax.metrics.inception_score import inception_score
from ddpm_jax.metrics.intervals import Estimate, at_this_size, halves
from ddpm_jax.metrics.kernel import kernel_distance
from ddpm_jax.metrics.memorisation import memorisation
from ddpm_jax.metrics.precision_recall import precision_recall
from ddpm_jax.runtime.images import PICTURED

PICTURES = "pictures"
"""The entry of a result that has images, uint8 `[2, K, H, W, C]`; it is drawn and not written."""

_DIVISIONS = 5  # of the images into halves, for the intervals
_PAIRS, _COLUMNS = 24, 8  # of samples and training images in the plot


class QualityMetric(NamedTuple):
    """A metric of a set of images.

    Attributes:
      measure: function `(images, reference)` of two feature sets to values of JSON.
      features: the name of the extractor that it takes if none is chosen.
      outputs: the outputs of the extractor that it needs.
      family: the extractor's `protocol["features"]` if the metric is defined on it alone, or "".
      lines, task: as for `evaluate.Metric`.
      plot: function from the result and the images `[2, K, H, W, C]` in its entry `PICTURES` to a figure, or None.
      held_out: whether it needs a reference with images that were held out of the training.
    """

    measure: Callable[[FeatureSet, FeatureSet], dict[str, Any]]
    features: str = "torch_fidelity"
    outputs: tuple[str, ...] = ("pool",)
    family: str = ""
    lines: Callable[[printing.Result], list[str]] = printing.of_quality
    plot: Callable[[printing.Result, np.ndarray], plots.Picture] | None = None
    task: str = "denoise"
    held_out: bool = False

    def check_reference(self, name: str, reference: FeatureSet) -> None:
        """Raises a UserError if the metric of this name needs held-out images and the reference has none."""
        if self.held_out and reference.held_out is None:
            raise UserError(
                f"{name} needs images that were held out of the training, and {reference.about.get('name', 'it')} has "
                "none: train with config.data.held_out=0.1, and compare with the data of the run"
            )

    def check_suits(self, name: str, extractor: Extractor) -> None:
        """Raises a UserError if the metric of this name is not defined on the features of an extractor."""
        family = extractor.protocol["features"]
        if self.family and family != self.family:
            raise UserError(f"{name} is defined on the features of {self.family}, not of {family}: use fd for these")
        if missing := set(self.outputs) - set(extractor.outputs):
            raise UserError(f"{name} needs {min(missing)}, which the features of {family} do not have")


def _frechet(images: FeatureSet, reference: FeatureSet, *, output: str = "pool") -> dict[str, Any]:
    """The Frechet distance; the moments of the reference are taken as exact, as it is usual for FID."""
    known = reference.moments(output)
    estimate = frechet(known, images.features(output), num_divisions=_DIVISIONS)
    return {**_values(estimate), "few": len(images.features(output)) <= len(known.mean)}


def _frechet_extrapolated(images: FeatureSet, reference: FeatureSet) -> dict[str, Any]:
    """The Frechet distance at infinitely many samples, and reference images if the features of enough are known."""
    enough = len(reference.arrays.get("pool", ())) >= LEAST_EXTRAPOLATED
    real = reference.features("pool") if enough else reference.moments("pool")
    return _values(frechet_extrapolated(real, images.features("pool"), num_divisions=_DIVISIONS))


def _kernel(images: FeatureSet, reference: FeatureSet) -> dict[str, Any]:
    return _values(kernel_distance(reference.features("pool"), images.features("pool")))


def _inception_score(images: FeatureSet, reference: FeatureSet) -> dict[str, Any]:
    return inception_score(images.features("logits"))._asdict()


def _neighbours(
    images: FeatureSet,
    reference: FeatureSet,
    *,
    measure: Callable[..., tuple[float, float]],
    names: tuple[str, str],
    neighbours: int,
) -> dict[str, Any]:
    """Two measures that depend on the sizes of both sets, on as many images of either, evenly spaced."""
    sets = [known.features("pool") for known in (reference, images)]
    num, least = min(map(len, sets)), 2 * (neighbours + 1)  # each half has more images than neighbours
    if num < least:
        raise UserError(f"{num} images are too few for {' and '.join(names)}: use {least} or more of each set")
    sets = [array[spread(num, len(array))] for array in sets]
    estimates = at_this_size(halves(measure, *sets, num_divisions=_DIVISIONS))
    return {name: _values(estimate) for name, estimate in zip(names, estimates, strict=True)}


def _memorisation(images: FeatureSet, reference: FeatureSet) -> dict[str, Any]:
    """The ratio of distances to the nearest training image, and the pairs that are nearest to each other."""
    assert reference.held_out is not None, "`check_reference` has checked it"
    sets = (known.features("pool") for known in (images, reference.held_out(), reference))
    found = memorisation(*sets)
    num = min(_PAIRS, len(found.distance))
    pairs = found.closest_pairs(num - num % _COLUMNS if num > _COLUMNS else num)
    result = {
        **_values(found.ratio),
        "median_distance": float(np.median(found.distance)),
        "held_out_median_distance": float(np.median(found.held_out_distance)),
        "pairs": [{"sample": int(i), "image": int(j), "distance": float(found.distance[i])} for i, j in pairs],
    }
    if images.images and reference.images and images.about.get("channels") in PICTURED:
        result[PICTURES] = np.stack([images.images(pairs[:, 0]), reference.images(pairs[:, 1])])
    return result


def _values(estimate: Estimate) -> dict[str, Any]:
    """An estimate as values of JSON."""
    return {**estimate._asdict(), "num_images": list(estimate.num_images)}


_precision_recall = partial(_neighbours, measure=precision_recall, names=("precision", "recall"), neighbours=3)
_density_coverage = partial(_neighbours, measure=density_coverage, names=("density", "coverage"), neighbours=5)

QUALITY: dict[str, QualityMetric] = {
    "fid": QualityMetric(_frechet, family="inception"),
    "fid_inf": QualityMetric(_frechet_extrapolated, family="inception"),
    "sfid": QualityMetric(partial(_frechet, output="spatial"), outputs=("spatial",), family="inception"),
    "fd": QualityMetric(_frechet),
    "fd_inf": QualityMetric(_frechet_extrapolated),
    "fd_dinov2": QualityMetric(_frechet, features="dinov2_vitl14", family="dinov2"),
    "kid": QualityMetric(_kernel),
    "is": QualityMetric(_inception_score, outputs=("logits",), lines=printing.of_score),
    "pr": QualityMetric(_precision_recall),
    "dc": QualityMetric(_density_coverage),
    "memorisation": QualityMetric(
        _memorisation,
        features="pixels",
        held_out=True,
        lines=printing.of_memorisation,
        plot=partial(plots.nearest_pairs, columns=_COLUMNS),
    ),
}
"""The metrics of samples and images by name: Frechet distances, KID, Inception score, precision and recall, density
and coverage, memorisation."""

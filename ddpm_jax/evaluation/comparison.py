"""The comparison job: it measures samples of a run, or images of any project, against a reference.

Read next: `quality.py`, the table of metrics; `extraction.py`, which makes the features in a stream.
"""

import os
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from ddpm_jax.config import not_one_of
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.feature_sets import FeatureSet, check_comparable, write_reference
from ddpm_jax.evaluation.features import extractor
from ddpm_jax.evaluation.quality import QUALITY
from ddpm_jax.evaluation.references import Images, ImageSet, images_of, reference_of
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import device_mesh


def measure(
    images: Images,
    reference: Images,
    metrics: Sequence[str],
    *,
    num_images: int | None = None,
    features: str = "",
    weights: str | os.PathLike[str] | None = None,
    batch_size: int = 100,
) -> dict[str, dict[str, Any]]:
    """Measures images of any project against others.

    Args:
      images: uint8 `[N, H, W, C]`, a source, a folder, or a .npz or .npy file.
      reference: the same, a reference or statistics file (.npz), or the name of an experiment.
      metrics: names in `QUALITY`.
      num_images: number of the images, evenly spaced; None for all.
      features, weights, batch_size: as for `compare`.

    Returns:
      As `compare`.

    Raises:
      UserError: as `compare`, or the images cannot be read.
    """
    measured = images_of(images, num_images=num_images)
    options = {"features": features, "weights": weights, "batch_size": batch_size}
    return compare(measured, reference_of(reference), metrics, mesh=device_mesh(), **options)


def compare(
    images: ImageSet,
    reference: ImageSet,
    metrics: Sequence[str],
    *,
    mesh: Mesh,
    features: str = "",
    weights: str | os.PathLike[str] | None = None,
    cache: AnyPath | None = None,
    batch_size: int = 100,
) -> dict[str, dict[str, Any]]:
    """Measures images against a reference.

    Args:
      images: the images to measure, see `references.py`.
      reference: the images that they are compared with.
      metrics: names in `QUALITY`.
      mesh: the devices.
      features: the name of an extractor, or the path of a run of a classifier; "" for that of each metric.
      weights: the published file of the extractor's weights, if it is not known yet.
      cache: the folder in which the features are kept, or None.
      batch_size: images at a time.

    Returns:
      `{metric: result}`, where a result has everything that is needed to repeat it, and the images of its plot under
      `PICTURES` if it has one.

    Raises:
      UserError: a metric does not exist or needs other features; or the images cannot be compared with the reference.
    """
    check_metrics(metrics)
    chosen = {name: features or QUALITY[name].features for name in metrics}
    made = {name: extractor(name, weights=weights) for name in dict.fromkeys(chosen.values())}
    outputs: dict[str, set[str]] = {name: set() for name in made}
    for name, its_features in chosen.items():
        QUALITY[name].check_suits(name, made[its_features])
        outputs[its_features] |= {*QUALITY[name].outputs}
    wanted = {name: (made[name], outputs[name]) for name in made}
    extraction = Extraction(wanted, mesh=mesh, cache=cache, batch_size=batch_size)
    real = reference(extraction)
    for known in real.values():
        if not known.protocol and not features:
            raise UserError(
                f"{known.about['name']} does not say how its features were made: say it, as in features=pytorch_fid"
            )
    for name, its_features in chosen.items():
        QUALITY[name].check_reference(name, real[its_features])
    measured, results = images(extraction), {}
    for name, its_features in chosen.items():
        one, other = measured[its_features], real[its_features]
        check_comparable(one, other)
        how = {"features": dict(one.protocol), "images": dict(one.about), "reference": dict(other.about)}
        results[name] = {"metric": name, **QUALITY[name].measure(one, other), **how}
    return results


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises a UserError if this is not a list of names of metrics of images."""
    if isinstance(metrics, str) or not metrics:
        raise UserError(f"the metrics must be a list of names: choose from {', '.join(QUALITY)}")
    for name in metrics:
        if name not in QUALITY:
            raise UserError(f"the metric {shortened(repr(name))} {not_one_of(str(name), QUALITY)}")


def make_reference(
    path: str | os.PathLike[str],
    reference: ImageSet,
    *,
    mesh: Mesh,
    features: str,
    weights: str | os.PathLike[str] | None = None,
    cache: AnyPath | None = None,
    batch_size: int = 100,
) -> FeatureSet:
    """Writes a reference file, with all outputs of the extractor, and returns its content.

    The arguments are those of `compare`.

    Raises:
      UserError: the file cannot be written, or as `compare`.
    """
    made = extractor(features, weights=weights)
    wanted = {features: (made, made.outputs)}
    known = reference(Extraction(wanted, mesh=mesh, cache=cache, batch_size=batch_size))[features]
    write_reference(path, known)
    return known

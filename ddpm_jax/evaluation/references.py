"""What samples are compared with: data of a run or of an experiment, a folder or a file of images, or statistics."""

import copy
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import CUSTOM, experiment, experiment_names
from ddpm_jax.data.folder import ImageFolder
from ddpm_jax.data.in_memory import ArrayImages
from ddpm_jax.data.source import Source
from ddpm_jax.data.stored import stored_images
from ddpm_jax.errors import UserError, did_you_mean, reading
from ddpm_jax.evaluation.extraction import Extraction, spread
from ddpm_jax.evaluation.feature_sets import FeatureSet, read_arrays, read_reference
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import exists, is_dir

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

Images: TypeAlias = str | os.PathLike[str] | Source | np.ndarray
"""Images of any origin: a path, a source, or an array uint8 `[N, H, W, C]`."""

MOST = 50_000  # images of a reference

ImageSet: TypeAlias = Callable[[Extraction], dict[str, FeatureSet]]
"""A set of images as a function from an extraction to their features, by the name of the extractor."""


def of_source(source: Source, *, num_images: int | None = None, **about: Any) -> ImageSet:
    """The images of a source, or `num_images` of them, evenly spaced; `about` describes them."""
    indices = spread(len(source) if num_images is None else num_images, len(source))
    return lambda extraction: extraction.of_source(source, indices, about=about)


def of_data(config: ConfigDict, source: Source | None = None, *, num_images: int | None = None) -> ImageSet:
    """The training images that `config.data` describes, without flips, with those that were held out beside them.

    Args:
      config: configuration.
      source: the source where a program gave the images, of which a part is held out as in training; else None.
      num_images: as for `of_source`, for either part.

    Raises:
      UserError: as `factory.parts`.
    """
    config, given = copy.deepcopy(config), source
    config.labels.names = ()  # the labels do not matter
    config.labels.num_classes = 0
    images, held_out = factory.parts(config, given)
    data = {key: config.data[key] for key in ("source", "name", "split") if config.data[key]}
    name = " ".join(str(value) for value in data.values())
    about: dict[str, Any] = {"kind": "data", "name": name, "crop": [*config.data.crop], "flips": False}
    if held_out is None:
        return of_source(images, num_images=num_images, **about)
    about["held_out"] = config.data.held_out
    train, others = (of_source(part, num_images=num_images, **about) for part in (images, held_out))

    def both(extraction: Extraction) -> dict[str, FeatureSet]:
        other = functools.cache(lambda: others(extraction))  # few metrics need it
        known = train(extraction).items()
        return {name: features._replace(held_out=lambda name=name: other()[name]) for name, features in known}

    return both


def samples_of(run: "Run", *, num_images: int, seed: int = 0, num_steps: int = 0) -> ImageSet:
    """The images that a run draws, as `Extraction.of_samples`."""
    return lambda extraction: extraction.of_samples(run, num_images=num_images, seed=seed, num_steps=num_steps)


def of_path(
    path: str | os.PathLike[str], *, crop_to: ConfigDict | None = None, num_images: int | None = None
) -> ImageSet:
    """The images of a folder or a file, or the reference in a file.

    Args:
      path: a folder, or a file .npz or .npy.
      crop_to: `config.data` of a run, as which the images of a folder are cropped and resized; None for images that
        have their size already.
      num_images: as for `of_source`.

    Raises:
      UserError: there is nothing that can be read.
    """
    path = any_path(path)
    about: dict[str, Any] = {"kind": "images", "name": str(path), "flips": False}
    content = read_arrays(path) if path.suffix == ".npz" else {}
    known = read_reference(path) if (content and "arr_0" not in content) or "mu" in content else None
    if known is not None and "arr_0" not in content:
        return lambda extraction: dict.fromkeys(extraction.compiled, known)
    if crop_to is None or not _exists(path, is_dir):
        images = stored_images(path)
    else:
        crop = tuple(crop_to.crop) or None
        images = ImageFolder(path, size=crop_to.image_size, channels=crop_to.channels, crop=crop)
        about["crop"] = [*crop_to.crop]
    made = of_source(images, num_images=num_images, **about)
    if known is None:
        return made
    return lambda extraction: {name: _with_statistics(found, known) for name, found in made(extraction).items()}


def _exists(path: AnyPath, kind: Callable[[AnyPath], bool]) -> bool:
    """Whether there is something of a kind; raises a `UserError` if that cannot be known."""
    with reading(path):
        return kind(path)


def _with_statistics(features: FeatureSet, known: FeatureSet) -> FeatureSet:
    """The features of the images in a file that also has statistics, of more images, by another project.

    The statistics count where they were made in the same way.
    """
    same = all(features.protocol.get(key) == value for key, value in known.protocol.items())
    return features._replace(known_moments=known.known_moments) if same and known.protocol else features


def images_of(given: Images, *, num_images: int | None = None) -> ImageSet:
    """The images of a program, or those of a path as `of_path`.

    Raises:
      UserError: they are not uint8 `[N, H, W, C]`, or there is nothing at the path.
    """
    if isinstance(given, np.ndarray):
        return of_source(ArrayImages(given), num_images=num_images, kind="array", name="an array")
    if isinstance(given, Source):
        return of_source(given, num_images=num_images, kind="source", name=factory.described(given))
    return of_path(given, num_images=num_images)


def reference_of(given: Images, run: "Run | None" = None) -> ImageSet:
    """A reference: images as `images_of`, the training data of an experiment, or "" for that of the run.

    At most 50,000 images are taken, evenly spaced. Those of a folder are cropped and resized as the run's data. A
    source is that of the training if the run was trained on one of a program and a share of it was held out.

    Raises:
      UserError: there is no such reference.
    """
    if isinstance(given, Source) and run is not None and run.config.data.source == CUSTOM and run.config.data.held_out:
        return of_data(run.config, given, num_images=MOST)
    if isinstance(given, Source | np.ndarray):
        return images_of(given, num_images=MOST)
    name = os.fspath(given)
    if not name:
        if run is None or run.config.data.source == CUSTOM:
            of = "" if run is None else f"{run.workdir} was trained on images that a program gave, so "
            raise UserError(f"{of}there is nothing to compare with: give a reference, such as a folder or a Source")
        return of_data(run.config, num_images=MOST)
    if _exists(any_path(name), exists):
        return of_path(name, crop_to=run and run.config.data, num_images=MOST)
    if name in experiment_names():
        return of_data(experiment(name), num_images=MOST)
    hint = did_you_mean(name, experiment_names(), otherwise=f"the experiments are {', '.join(experiment_names())}")
    raise UserError(f"there is no reference {name!r}: give a folder of images, a .npz file or an experiment; {hint}")

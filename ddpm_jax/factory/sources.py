"""Data sources from a configuration: where the images come from."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddpm_jax.config import flatten, unmet_needs
from ddpm_jax.data.checked import check_source, checked
from ddpm_jax.data.classes import matched
from ddpm_jax.data.held_out import HELD_OUT, Part
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.factory.given import check_given
from ddpm_jax.factory.lookup import named


class Parts(NamedTuple):
    """The images of a data set, with classes numbered as those of a run.

    Attributes:
      train: the images to train on.
      held_out: the images that training leaves out, or None.
    """

    train: Source
    held_out: Source | None


def parts(config: ConfigDict, given: Source | None = None) -> Parts:
    """The images of `config.data`, without and with those of the share `config.data.held_out`.

    Args:
      config: configuration.
      given: the source where `config.data.source` is "custom", and None elsewhere.

    Raises:
      UserError: the configuration does not describe a source, a part has no images, or as `fitted`.
    """
    data = config.data
    check_given(given, data.source, key="data.source", argument="source")
    shape = {"size": data.image_size, "channels": data.channels, "crop": tuple(data.crop) or None}
    whole = named(SOURCES, data.source, "data.source")(data, shape) if given is None else given
    if not data.held_out:
        return Parts(fitted(config, whole), None)
    check_source(whole)
    train, held_out = (fitted(config, Part(whole, data.held_out, held_out=side)) for side in (False, True))
    return Parts(train, held_out)


def source(config: ConfigDict, given: Source | None = None) -> Source:
    """The images of `config.data` to train on, as `parts`."""
    return parts(config, given).train


def of_split(config: ConfigDict, split: str) -> Source:
    """The images of one split of the data set of a run.

    Args:
      config: the configuration of the run.
      split: "held_out" for the images that training leaves out; or a split of the data set: that of the training has
        the images to train on, and every other one all of its images. A folder is one split, whatever it is called.

    Raises:
      UserError: no images are held out, or as `parts`.
    """
    config = copy.deepcopy(config)
    data = config.data
    if split == HELD_OUT:
        if not data.held_out:
            raise UserError("no images are held out of the training of this run: train with config.data.held_out=0.1")
        held_out = parts(config).held_out
        assert held_out is not None, "a share is held out"
        return held_out
    if split != data.split and not unmet_needs("data.split", flatten(config)):
        data.held_out = 0.0
    data.split = split
    return source(config)


def fitted(config: ConfigDict, images: Source) -> Source:
    """A source whose examples are checked when they are read, with classes numbered as for `source`.

    A source that this function has returned for the same images and classes is returned itself.

    Raises:
      UserError: its classes differ from those of the configuration, or as `CheckedSource`.
    """
    data = config.data
    images = checked(images, (data.image_size, data.image_size, data.channels))
    if config.labels.num_classes and config.labels.names and images.class_names:
        return matched(images, config.labels.names)
    if config.labels.num_classes not in (0, images.num_classes):
        raise UserError(
            f"the images have {images.num_classes or 'no'} classes, but config.labels.num_classes is "
            f"{config.labels.num_classes}"
        )
    return images


def _digits(data: ConfigDict, shape: Mapping[str, Any]) -> Source:
    """The built-in digits, which exist in one size only."""
    from ddpm_jax.data.digits import Digits

    if (data.image_size, data.channels) != (8, 1) or data.crop:
        raise UserError("the digits are 8x8 and grey: use data.image_size=8, data.channels=1 and no data.crop")
    return Digits(named(("train", "test", "all"), data.split, "data.split"))


def _folder(data: ConfigDict, shape: Mapping[str, Any]) -> Source:
    """A folder of images."""
    from ddpm_jax.data.folder import ImageFolder

    if not data.path:
        raise UserError("give the folder of images with config.data.path=FOLDER")
    options = {"skip_unreadable": data.skip_unreadable, "cache_gib": data.cache_gib}
    images = ImageFolder(data.path, **options, **shape)
    print(images.note, flush=True)
    return images


def _tfds(data: ConfigDict, shape: Mapping[str, Any]) -> Source:
    """A prepared data set of tensorflow-datasets."""
    from ddpm_jax.data.tfds import TfdsImages

    if not data.name:
        raise UserError("choose the data set with config.data.name=NAME, such as cifar10")
    form = {**shape, "skip_unreadable": data.skip_unreadable}
    return TfdsImages(data.name, data.split, data_dir=data.path or None, label_key=data.label, **form)


# From `config.data` and the images' form (size, channels, crop).
SOURCES: dict[str, Callable[[ConfigDict, Mapping[str, Any]], Source]] = {
    "digits": _digits,
    "folder": _folder,
    "tfds": _tfds,
}

"""Any image data set of TensorFlow Datasets (TFDS) as a source, read without TensorFlow.

A data set is prepared once, as array_record files, by `python -m ddpm_jax.data.prepare NAME`; array_record
allows the random access that the usual tfrecord lacks. Only the image and the label are parsed (the 40
attributes of celeb_a take longer than its pixels), and `encoded.py` decodes the image, so that every source
decodes in the same way.

Read next: `encoded.py` for what happens to an image, `prepare.py` for how the files are made.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ddpm_jax.data.encoded import EncodedImages, ImageForm
from ddpm_jax.errors import UserError, did_you_mean, listed, module
from ddpm_jax.runtime.paths import as_flag, local_path

if TYPE_CHECKING:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

_DEFAULT_LABEL = "label"


class TfdsImages(EncodedImages):
    """One split of a prepared data set."""

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        label_key: str = _DEFAULT_LABEL,
        **form: Unpack[ImageForm],
    ) -> None:
        """Opens the files; nothing is decoded yet, and nothing is downloaded.

        Args:
          name: "mnist"; "lsun/bedroom" with a configuration; "celeb_a:2.1.0" with a version.
          split: "train", "train[:90%]" for a slice, "train+test" for a sum, "all".
          data_dir: the folder in which the data set was prepared; None for TFDS's default, $TFDS_DATA_DIR or
            ~/tensorflow_datasets.
          label_key: the feature to use as the label, "attributes/Smiling" for one inside another: a class
            label, or true and false as two classes. If it is "label" and there is no such feature, the source has
            no labels; any other key must exist.
          **form: `size`, `channels`, `crop` and `skip_unreadable` of `EncodedImages`.

        Raises:
          UserError: there is no such data set, split, image or label, or the data set is not prepared as
            array_record.
        """
        super().__init__(**form)
        import tensorflow_datasets as tfds

        info = _prepared_builder(name, data_dir).info
        self._title = f"{info.full_name} {split}"
        self._records = _records(info, split)
        self._image_key = _image_key(info)
        self._label_path: tuple[str, ...] = ()
        features = {self._image_key: info.features[self._image_key]}
        labels = _label_features(info.features)
        if label_key in labels:
            self._label_path = tuple(label_key.split("/"))
            self.class_names = _class_names(labels[label_key], self._label_path[-1])
            self.num_classes = len(self.class_names)
            features |= _nested(self._label_path, labels[label_key])
        elif label_key != _DEFAULT_LABEL:
            raise UserError(f"{info.full_name} has no label {label_key!r}{hint(label_key, labels)}")
        self._features = tfds.features.FeaturesDict(features)
        self._decoders = {self._image_key: tfds.decode.SkipDecoding()}

    def __len__(self) -> int:
        """The number of images in the split."""
        return len(self._records)

    def _read(self, index: int) -> tuple[bytes, int]:
        try:
            record = self._records[index]
        except RuntimeError as error:  # a file is missing or cut short
            raise UserError(f"cannot read {self._name(index)}: {error}; prepare the data set again") from error
        example = self._features.deserialize_example_np(record, decoders=self._decoders)
        label: Any = example if self._label_path else 0
        for key in self._label_path:
            label = label[key]
        if self._label_path and not 0 <= label < self.num_classes:
            raise UserError(f"{self._name(index)} has the label {label}, which means unknown: use a split with labels")
        return example[self._image_key], label

    def _name(self, index: int) -> str:
        return f"image {index} of {self._title}"


def find_builder(name: str, data_dir: str | os.PathLike[str] | None = None) -> "tfds.core.DatasetBuilder | None":
    """Looks for a data set on the disk, by its files alone, because the code that made it may need TensorFlow.

    Args:
      name: as in `TfdsImages`.
      data_dir: as in `TfdsImages`.

    Returns:
      A builder of the data set that is prepared as array_record, or None if it is not prepared.

    Raises:
      UserError: there is no data set of that name, or it is prepared in another format.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = data_folder(data_dir)
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except ValueError as error:  # a DatasetNotFoundError, or the error for a name that cannot be parsed
        known = {*_prepared_names(data_dir), *tfds.list_builders(with_community_datasets=False)}
        if (bare_name := re.split("[/:]", name)[0]) not in known:
            raise UserError(f"there is no data set {name!r}{hint(bare_name, known)}") from error
        return None
    if (file_format := builder.info.file_format.value) != "array_record":
        raise UserError(
            f"{builder.data_dir} is prepared as {file_format}, which does not allow random access: "
            f"run `{module('data.prepare')} {shlex.quote(name)} --data_dir=DIR` with another folder"
        )
    return builder


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> str:
    """The folder of prepared data sets: the given one, or TFDS's default.

    Raises:
      UserError: it is not a local folder, or no folder is given and there is no home directory.
    """
    if data_dir or (data_dir := os.environ.get("TFDS_DATA_DIR")):
        return str(local_path(data_dir))
    try:
        return str(local_path("~/tensorflow_datasets"))
    except UserError as error:
        raise UserError(
            "there is no home directory in which prepared data sets could be: give their folder with "
            "config.data.path=DIR (python -m ddpm_jax.data.prepare: --data_dir=DIR) or in TFDS_DATA_DIR"
        ) from error


def hint(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: the names that end in it or are similar, or else a few of them."""
    known = sorted(known)
    return f"; {did_you_mean(word, known, otherwise=f'known names are {listed(known)}', most=3)}"


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None) -> "tfds.core.DatasetBuilder":
    builder = find_builder(name, data_dir)
    if builder is None:
        data_dir = data_folder(data_dir)
        raise UserError(
            f"the data set {name} is not prepared in {data_dir}, which contains "
            f"{listed(_prepared_names(data_dir)) or 'no data set'}: correct the folder, or run "
            f"`{module('data.prepare')} {shlex.quote(name)} {as_flag('data_dir', data_dir)}`"
        )
    return builder


def _prepared_names(data_dir: str) -> list[str]:
    """The data sets in a folder, which has the files name/version/dataset_info.json or name/config/version/..."""
    root = Path(data_dir)
    files = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    return sorted({file.parent.parent.relative_to(root).as_posix() for file in files})


def _records(info: "tfds.core.DatasetInfo", split: str) -> "ArrayRecordDataSource":
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        return ArrayRecordDataSource(info.splits[split].file_instructions)
    except ValueError as error:  # a misspelt split, or an empty slice of one
        raise UserError(
            f"there are no images in the split {split!r} of {info.full_name}; its splits are {', '.join(info.splits)}"
        ) from error


def _image_key(info: "tfds.core.DatasetInfo") -> str:
    """The name of the image feature: "image", or that of the only image if it has another name."""
    from tensorflow_datasets.core.features import Image

    keys = [key for key, feature in info.features.items() if isinstance(feature, Image)]
    keys = ["image"] if "image" in keys else keys
    if len(keys) != 1:
        features = ", ".join(sorted(info.features))
        raise UserError(f"{info.full_name} is not a data set of single images; its features are {features}")
    if (dtype := info.features[keys[0]].np_dtype) not in (np.uint8, np.uint16):
        raise UserError(
            f"{info.full_name} stores its images as {np.dtype(dtype)}; only images of 8 or 16 bits can be read"
        )
    return keys[0]


def _label_features(
    features: "tfds.features.FeaturesDict", prefix: str = ""
) -> "dict[str, tfds.features.FeatureConnector]":
    """The features that can be a label, by their path: class labels and truth values."""
    from tensorflow_datasets.core.features import ClassLabel, FeaturesDict

    labels = {}
    for key, feature in features.items():
        if isinstance(feature, FeaturesDict):
            labels |= _label_features(feature, f"{prefix}{key}/")
        elif isinstance(feature, ClassLabel) or (feature.shape == () and feature.np_dtype == np.bool_):
            labels[prefix + key] = feature
    return labels


def _class_names(feature: "tfds.features.FeatureConnector", key: str) -> tuple[str, ...]:
    """The names of a label's classes; for a truth value they are made of its key."""
    names = getattr(feature, "names", None)
    return tuple(names) if names else (f"not {key}", key)


def _nested(path: Sequence[str], leaf: Any) -> Mapping[str, Any]:
    """`{path[0]: {path[1]: ... leaf}}`."""
    for key in reversed(path):
        leaf = {key: leaf}
    return leaf

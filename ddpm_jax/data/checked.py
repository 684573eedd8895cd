"""A source whose examples are checked when they are read, because an array on a device takes any type and any label.

Read next: `source.py`.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from ddpm_jax.data.classes import Relabelled, usable_names
from ddpm_jax.data.source import Example, Source, image_name
from ddpm_jax.errors import UserError, listed, shortened

_FORM = '{"image": uint8 [H, W, C], "label": integer}'


class CheckedSource:
    """A source with the same examples, each of which is checked when it is read.

    Args:
      source: the `Source`.
      shape: the shape of every image, `(H, W, C)`.

    Attributes:
      num_classes: that of the source.
      class_names: those of the source, or () with a note if there is not one for each class.
      shape: as the argument.

    Raises:
      UserError: the object is not a source, or it is empty. Reading an example raises one if the example does not have
        the form of `Example`, if its image does not have the given shape, or if there are classes and its label is not
        in 0..num_classes - 1.
    """

    def __init__(self, source: Source, shape: tuple[int, ...]) -> None:
        check_source(source)
        self.num_classes, self.class_names = source.num_classes, usable_names(source, source.num_classes)
        if not self.class_names and source.class_names is not None and len(source.class_names):
            print(
                f"note: the class names of the data are not used: there are {len(source.class_names)} of them, and "
                f"each of the {self.num_classes} classes needs its own name",
                flush=True,
            )
        self._source, self.shape = source, tuple(shape)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """Image `index` in 0..len - 1."""
        example = checked_example(self._source[index], index)
        shape, label = example["image"].shape, int(example["label"])
        if shape != self.shape:
            raise UserError(f"image {index} of the data has the shape {list(shape)} in place of {list(self.shape)}")
        if self.num_classes and not 0 <= label < self.num_classes:
            raise UserError(
                f"image {index} of the data has the label {label}, and there are {self.num_classes} classes: 0 to "
                f"{self.num_classes - 1}"
            )
        return example

    def image_name(self, index: int) -> str:
        """The name that the image has in the source."""
        return image_name(self._source, index)


def checked(source: Source, shape: tuple[int, ...]) -> Source:
    """The source itself if its examples are checked for this shape already, or else its `CheckedSource`.

    Args:
      source, shape: as for `CheckedSource`.

    Raises:
      UserError: as `CheckedSource`.
    """
    inner = source.source if isinstance(source, Relabelled) else source
    return source if isinstance(inner, CheckedSource) and inner.shape == shape else CheckedSource(source, shape)


def check_source(source: object) -> None:
    """Raises a `UserError` if an object is not a `Source` of at least one image."""
    if not isinstance(source, Source):
        raise UserError(
            f"a source needs __len__, __getitem__, num_classes and class_names, see data.Source; got "
            f"{shortened(repr(source))}: ArrayImages makes one from arrays"
        )
    if not isinstance(source.num_classes, Integral) or source.num_classes < 0:
        raise UserError(f"num_classes of a source must be a whole number of 0 or above, not {source.num_classes!r}")
    if not len(source):
        raise UserError("the data set contains no images")


def checked_example(example: Any, index: int) -> Example:
    """An example of a source with its image as an array of NumPy and its label as an int32.

    Args:
      example: what the source returns.
      index: its index, for the message.

    Raises:
      UserError: it does not have the form of `Example`.
    """
    if not isinstance(example, Mapping) or not {"image", "label"} <= example.keys():
        held = f" of {listed(example)}" if isinstance(example, Mapping) else ""
        raise UserError(f"image {index} of the data must be {_FORM}, and is a {type(example).__name__}{held}")
    image, label = np.asarray(example["image"]), np.asarray(example["label"])
    if image.dtype != np.uint8 or image.ndim != 3 or label.shape != () or not np.issubdtype(label.dtype, np.integer):
        raise UserError(
            f"image {index} of the data must be {_FORM}; its image is {image.dtype} {list(image.shape)}, its label "
            f"{label.dtype} {list(label.shape)}"
        )
    return {"image": image, "label": label.astype(np.int32)[()]}


def square_shape(source: Source) -> tuple[int, int, int]:
    """The shape `(H, H, C)` of the first image of a source.

    Raises:
      UserError: the object is not a source, it is empty, or its first example is not a square image with a label.
    """
    check_source(source)
    height, width, channels = checked_example(source[0], 0)["image"].shape
    if height != width:
        raise UserError(f"the images of the source must be square, [H, H, C], and are {[height, width, channels]}")
    return height, width, channels

"""Images that a program holds in memory, as a source."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.data.source import Example
from ddpm_jax.errors import UserError, first_line, listed


class ArrayImages:
    """Arrays as a `Source`: `dj.train(config, workdir, source=dj.ArrayImages(images))`.

    Args:
      images: uint8 `[N, H, W, C]`, or `[N, H, W]` for grey images.
      labels: integers `[N]`, 0 or above, or None for images without classes.
      class_names: the names of the classes, or () if they have none.
      num_classes: the number of classes; by default the number of names, or without names the highest label plus 1.

    Raises:
      UserError: the arrays do not have these types and shapes, two classes have the same name, or the number of classes
        or of names is too small for the labels.
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        class_names: Sequence[str] | np.ndarray = (),
        num_classes: int | None = None,
    ) -> None:
        if isinstance(class_names, str):
            raise UserError(f"class_names must be a sequence of names, such as ({class_names!r},)")
        images = _array("images", images)
        images = images[..., None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise UserError(
                f"images must be uint8 [N, H, W, C], got {images.dtype} {list(images.shape)}: to_uint8 "
                "converts images in [-1, 1]"
            )
        classes = np.zeros(len(images), np.int32) if labels is None else _array("labels", labels)
        if classes.shape != images.shape[:1] or not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
            raise UserError(f"labels must be {len(images)} integers of 0 or above, not {classes.dtype} {classes.shape}")
        highest = int(classes.max())
        self.class_names = tuple(map(str, class_names))
        if self.class_names and highest >= len(self.class_names):
            raise UserError(f"there are {len(self.class_names)} class names, and a label is {highest}")
        if len(set(self.class_names)) < len(self.class_names):
            raise UserError(f"every class needs its own name, and the names are {listed(self.class_names)}")
        known = num_classes or len(self.class_names) or highest + 1
        if known <= highest or (self.class_names and known != len(self.class_names)):
            raise UserError(f"num_classes={num_classes} does not fit the labels or the class names")
        self.num_classes = 0 if labels is None else known
        self._images, self._labels = images, classes.astype(np.int32)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        """Image `index` in 0..len - 1."""
        return {"image": self._images[index], "label": self._labels[index]}


def _array(name: str, values: ArrayLike) -> np.ndarray:
    """The values as an array; raises a `UserError` if they are lists of different lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UserError(f"{name} must have one shape, so that they form an array: {first_line(error)}") from error

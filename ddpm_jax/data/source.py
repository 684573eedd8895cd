"""What the project needs of a data set: `Source`, a protocol to satisfy and not a class to inherit.

Read next: `digits.py`, the smallest source.
"""

from typing import Protocol, TypedDict, runtime_checkable

import numpy as np

from ddpm_jax.runtime.images import from_uint8


class Example(TypedDict):
    """One image with its label, or a batch of both, with a leading axis."""

    image: np.ndarray  # uint8 [H, W, C]
    label: np.ndarray | np.integer  # int32 [], in 0..num_classes - 1; 0 when the source has no labels


@runtime_checkable
class Source(Protocol):
    """Random access to images of one shape; it must be picklable, because worker processes get copies of it.

    A source may also name its images, see `NamedImages`.

    Attributes:
      num_classes: number of labels, 0 for a source without labels.
      class_names: the labels' names, `num_classes` of them, or () if they have no names.
    """

    num_classes: int
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Image `index` in 0..len - 1, the same at every access."""
        ...


@runtime_checkable
class NamedImages(Protocol):
    """What a source has besides if its images have names, which other images do not change."""

    def image_name(self, index: int) -> str:
        """The name of image `index`, such as its path relative to the folder of the source."""
        ...


def image_name(source: Source, index: int) -> str:
    """The name of an image; its index where the source does not name its images."""
    return source.image_name(index) if isinstance(source, NamedImages) else str(index)


def load(source: Source, num_images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first images of a source, or all of them, as arrays.

    Args:
      source: `Source`.
      num_images: the largest number of images, 1 or more; None for all.

    Returns:
      x_0 `[N, H, W, C]` float32 in [-1, 1], and labels `[N]` int32.
    """
    examples = [source[i] for i in range(len(source) if num_images is None else min(len(source), num_images))]
    return from_uint8(np.stack([e["image"] for e in examples])), np.array([e["label"] for e in examples], np.int32)

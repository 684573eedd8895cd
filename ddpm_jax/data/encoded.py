"""What the sources of encoded images share: decoding on access, and the treatment of unreadable images.

Read next: `folder.py` and `tfds.py`, which only add where the bytes come from.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Required, TypedDict

import numpy as np
from absl import logging
from PIL import Image

from ddpm_jax.data.formats import UnreadableImageError, has_several_frames, opened
from ddpm_jax.data.source import Example
from ddpm_jax.data.transforms import Square, crop_and_resize, to_8_bits
from ddpm_jax.errors import UserError, one_line


class ImageForm(TypedDict, total=False):
    """The arguments of `EncodedImages`, for subclasses that pass them on."""

    size: Required[int]
    channels: int
    crop: Sequence[int] | None
    skip_unreadable: bool


class EncodedImages(ABC):
    """A `Source` whose images are decoded, cropped and resized on access.

    A subclass provides the bytes: it sets `num_classes` and `class_names`, and defines `__len__`,
    `_read` and `_name`.

    Attributes:
      num_classes: number of labels, 0 for a source without labels.
      class_names: the labels' names.
      num_skipped: number of unreadable images found so far by this copy of the source; each worker process
        counts in its own copy.
      num_animated: the same count for images with several frames or pages, of which the first is taken.
    """

    num_classes: int = 0
    class_names: tuple[str, ...] = ()

    def __init__(
        self, *, size: int, channels: int = 3, crop: Sequence[int] | None = None, skip_unreadable: bool = False
    ) -> None:
        """Sets the size, the channels and the crop of every image.

        Args:
          size: side of the images in pixels.
          channels: 1 for grey, 3 for RGB.
          crop: the square (left, top, right, bottom) of the original to use, in pixels, right and bottom
            exclusive; None for the largest in the centre. CelebA's aligned crop, 128x128 around x = 89, y =
            121, is (25, 57, 153, 185).
          skip_unreadable: return the next readable image instead of one that cannot be used; otherwise the
            latter raises.

        Raises:
          UserError: the size, the number of channels or the crop is impossible.
        """
        if size < 1:
            raise UserError(f"the image size must be at least 1 pixel, not {size}")
        if channels not in (1, 3):
            raise UserError(f"images have 1 channel (grey) or 3 (RGB), not {channels}")
        self._form = {"size": size, "channels": channels, "crop": None if crop is None else _square(crop)}
        self._skip_unreadable = skip_unreadable
        self._unreadable: set[int] = set()
        self._animated: set[int] = set()

    @abstractmethod
    def __len__(self) -> int:
        """The number of images, readable or not."""

    @abstractmethod
    def _read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label; raises `UnreadableImageError` if the file cannot be read."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """The name of the image in messages."""

    @property
    def num_skipped(self) -> int:
        """The number of unreadable images found so far."""
        return len(self._unreadable)

    @property
    def num_animated(self) -> int:
        """The number of images with several frames found so far."""
        return len(self._animated)

    def __getitem__(self, index: int) -> Example:
        """Image `index`, or with `skip_unreadable` the next readable one, where the first follows the last.

        Raises:
          UserError: the image cannot be read or, with `skip_unreadable`, no image can.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.first_readable((index + offset) % len(self) for offset in range(len(self)))

    def first_readable(self, candidates: Iterable[int]) -> Example:
        """The first of several images, or with `skip_unreadable` the first that can be read.

        Args:
          candidates: the indices of the images, in 0..len - 1, at least one.

        Raises:
          UserError: the first image cannot be read or, with `skip_unreadable`, none can.
        """
        tried = []
        for candidate in candidates:
            tried.append(candidate)
            if candidate in self._unreadable:
                continue
            try:
                data, label = self._read(candidate)
                image = crop_and_resize(self._first_frame(candidate, data), **self._form)
            except UnreadableImageError as error:
                self._pass_over(candidate, error)
            else:
                return {"image": image, "label": np.int32(label)}
        raise UserError(f"none of the {len(tried)} images can be read, for example {self._name(tried[0])}")

    def _first_frame(self, index: int, data: bytes) -> Image.Image:
        """Decodes an image; for the first image that has several frames it warns that only the first frame is taken."""
        with opened(data) as image:
            if has_several_frames(image):
                if not self._animated:
                    note = "%s has several frames: only the first is used, as for every image with several frames"
                    logging.warning(note, one_line(self._name(index)))
                self._animated.add(index)
            return to_8_bits(image)

    def _pass_over(self, index: int, error: UnreadableImageError) -> None:
        """Remembers an unreadable image and warns of it, or ends the run."""
        if not self._skip_unreadable:
            raise UserError(
                f"cannot use {self._name(index)}: {error}; remove it, or have unreadable images replaced by the next "
                "one with config.data.skip_unreadable=True (evaluate.py --skip_unreadable)"
            ) from error
        self._unreadable.add(index)
        logging.warning("skipping %s", one_line(f"{self._name(index)}: {error}"))


def _square(crop: Sequence[int]) -> Square:
    """The crop if it is a square inside the positive quadrant; raises a `UserError` otherwise."""
    left, top, right, bottom = crop if len(crop) == 4 else (0, 0, 0, 0)
    if left < 0 or top < 0 or right <= left or right - left != bottom - top:
        raise UserError(f"crop must be a square (left, top, right, bottom) in pixels, not {tuple(crop)}")
    return left, top, right, bottom

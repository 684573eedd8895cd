"""The images that a run is measured on, in batches on the devices. Read next: `measurements.py`."""

import math
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.data.classes import usable_names
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.arrays import image_keys, stream
from ddpm_jax.runtime.devices import padded, split
from ddpm_jax.runtime.images import from_uint8


class Images:
    """Images of a source, evenly spaced over it, in batches that divide over the devices, with one key per image.

    They are not the first images, because a folder lists its classes one after the other.

    Args:
      source: data source.
      num_images: number of images; fewer if the source has fewer.
      batch_size: images at a time, rounded up to a multiple of the number of devices.
      mesh: the devices.

    Attributes:
      num_images: number of images in all batches.
      class_names: names of the source's classes, or ().
    """

    def __init__(self, source: Source, *, num_images: int, batch_size: int, mesh: Mesh) -> None:
        self.class_names = usable_names(source, getattr(source, "num_classes", 0))
        self._source, self.num_images = source, min(num_images, len(source))
        self._indices = np.arange(self.num_images) * len(source) // max(self.num_images, 1)
        self._batch_size = math.ceil(min(batch_size, self.num_images) / mesh.size) * mesh.size
        self._mesh, key = mesh, stream(jax.random.key(0), "evaluation")
        self._keys = jax.jit(partial(image_keys, key), out_shardings=split(mesh))

    def in_batches_of(self, at_most: int) -> "Images":
        """The same images in batches of at most this size, for a measurement that takes long."""
        size = min(at_most, self._batch_size)
        return Images(self._source, num_images=self.num_images, batch_size=size, mesh=self._mesh)

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(self.num_images / self._batch_size)

    def __iter__(self) -> Iterator[tuple[jax.Array, jax.Array, jax.Array, int]]:
        """Yields (x_0 `[B, H, W, C]` in [-1, 1], labels `[B]`, keys `[B]`, number of images that are not padding)."""
        for begin in range(0, self.num_images, self._batch_size):
            count = min(self._batch_size, self.num_images - begin)
            indices = padded(np.arange(begin, begin + count), self._batch_size)
            examples = [self._source[i] for i in self._indices[indices].tolist()]
            images, labels = (np.stack([example[name] for example in examples]) for name in ("image", "label"))
            x_0 = from_uint8(images)
            yield *jax.device_put((x_0, labels), split(self._mesh)), self._keys(indices), count

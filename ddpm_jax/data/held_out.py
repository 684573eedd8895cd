"""A share of a source that training leaves out, chosen by the names of the images.

Which images these are depends on their names alone: not on their order, nor on a seed, nor on what other images there
are. So images may be added to a data set or removed from it, and none moves from one part to the other.
"""

import hashlib
import unicodedata

import numpy as np

from ddpm_jax.data.encoded import EncodedImages
from ddpm_jax.data.source import Example, Source, image_name
from ddpm_jax.errors import UserError

HELD_OUT = "held_out"
"""The name of the split that has the held-out images of a run."""


class Part:
    """The held-out images of a source, or all others, in the order of the source.

    Args:
      source: the `Source`, whose images have names or else are named by their indices, see `image_name`.
      share: the share that is held out, in (0, 1); a larger share holds out the same images and others.
      held_out: whether this is the held-out part.

    Attributes:
      num_classes, class_names: those of the source.
      indices: the indices of the part's images in the source, `[N]`, increasing.

    Raises:
      UserError: the part has no images.
    """

    def __init__(self, source: Source, share: float, *, held_out: bool) -> None:
        self._source, self.num_classes, self.class_names = source, source.num_classes, source.class_names
        places = np.array([_place(image_name(source, index)) for index in range(len(source))])
        self.indices = np.flatnonzero((places < share) == held_out)
        if not len(self.indices):
            raise UserError(
                f"config.data.held_out={share} {'holds out' if held_out else 'leaves'} none of the {len(source):,} "
                f"images: use a {'larger' if held_out else 'smaller'} share, or more images"
            )

    def __len__(self) -> int:
        """The number of images in this part."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        """Image `index` of this part; one that is unreadable and skipped is replaced by the next one of the part."""
        if isinstance(self._source, EncodedImages):
            following = (int(self.indices[(index + k) % len(self)]) for k in range(len(self)))
            return self._source.first_readable(following)
        return self._source[int(self.indices[index])]

    def image_name(self, index: int) -> str:
        """The name that the image has in the source."""
        return image_name(self._source, int(self.indices[index]))


def _place(name: str) -> float:
    """A number in [0, 1) that is uniform over names: the first 52 bits of the SHA-256 of the name.

    A name is hashed with each accented letter as one character, because macOS decomposes the names of files.
    """
    text = unicodedata.normalize("NFC", name).encode(errors="surrogatepass")
    return int(hashlib.sha256(text).hexdigest()[:13], 16) / 16**13

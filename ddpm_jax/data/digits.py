"""The 1,797 handwritten digits that come with this package: 8x8 pixels, 17 levels of grey, no download.

They are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI
Machine Learning Repository, 1998 (https://doi.org/10.24432/C50P49), licensed CC BY 4.0: 32x32 bitmaps of
digits, of which the pixels set in each 4x4 block are counted. `digits.npz` holds those counts as scikit-learn
(BSD-3-Clause) ships them in `load_digits`, in its order.

Read next: `pipeline.py`.
"""

from pathlib import Path

import numpy as np

from ddpm_jax.data.source import Example
from ddpm_jax.errors import UserError

MAX_LEVEL = 16

# Neighbours in the collection were written by the same person: splitting without shuffling tests on other people's
# writing.
_SPLITS: dict[str, slice] = {"train": slice(0, 1297), "test": slice(1297, 1797), "all": slice(0, 1797)}


class Digits:
    """Handwritten digits 0..9 as uint8 `[8, 8, 1]`, level k of 0..16 shown as round(255 k / 16)."""

    num_classes = 10
    class_names: tuple[str, ...] = tuple("0123456789")

    def __init__(self, split: str) -> None:
        """Loads one split.

        Args:
          split: "train" (the first 1,297), "test" (the last 500, mostly other people's writing) or "all".

        Raises:
          UserError: there is no such split.
        """
        if split not in _SPLITS:
            raise UserError(f"the digits have no split {split!r}: choose one of {', '.join(_SPLITS)}")
        with np.load(Path(__file__).with_name("digits.npz")) as file:
            levels, labels = file["levels"][_SPLITS[split]], file["labels"][_SPLITS[split]]
        self._images = np.round(levels * (255 / MAX_LEVEL)).astype(np.uint8)[..., None]
        self._labels = labels.astype(np.int32)

    def __len__(self) -> int:
        """The number of digits in the split."""
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        """Digit `index` of the split, with its class as the label."""
        return {"image": self._images[index], "label": self._labels[index]}

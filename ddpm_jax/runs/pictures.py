"""What a run draws, as pictures for people: grids with their classes, inpainting with its mask, frames of a chain."""

from collections.abc import Sequence

import numpy as np

from ddpm_jax.data.classes import legend
from ddpm_jax.runs.chain import Frames
from ddpm_jax.runtime.captions import beside, column_heads, hatched, headed
from ddpm_jax.runtime.images import enlargement, tile_images, to_uint8


def grid(images: np.ndarray, labels: Sequence[int] = (), *, names: Sequence[str] = (), num_classes: int) -> np.ndarray:
    """Images in a grid, with a column and its name for each class, or the name of the only class above all.

    Args:
      images: `[N, H, W, C]` uint8.
      labels: the classes that the images take in turn; () for none.
      names: the names of all classes, or () for their numbers.
      num_classes: number of classes.

    Returns:
      `[H', W', C]` uint8.
    """
    words = [legend([label], names, num_classes=num_classes) for label in labels]
    tiles = tile_images(images, columns=len(labels) if len(labels) > 1 else None)
    if len(words) == 1:
        return headed(tiles, [(words[0] if words[0] == "no class" else f"class {words[0]}", 0, tiles.shape[1])])
    return column_heads(tiles, words) if words else tiles


def inpainted(results: np.ndarray, original: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The original, what of it was given, with the rest hatched, and a picture of the results, `[H', W', C]` uint8.

    Args:
      results: the grid of results, `[H, W, C]` uint8.
      original: the image `[H, W, C]` in [-1, 1].
      known: 1 where it was given and 0 where it is drawn, `[H, W, 1]`.
    """
    image = to_uint8(original)
    given = tile_images(hatched(image, known)[None], gap=enlargement(len(image)))
    return beside([("original", tile_images(image[None])), ("given", given), ("results", results)])


def frames(chain: Frames, *, columns: int | None = None) -> np.ndarray:
    """A picture of each frame of a chain, `[F, H', W', C]` uint8: x_t beside the estimate of x_0, below the time.

    Args:
      chain: the `Frames`.
      columns: number of columns of either grid; None for a nearly square one.
    """
    pictures = []
    for t, x, x_0 in zip(chain.times, chain.x, chain.x_0, strict=True):
        grids = (tile_images(_few_values(to_uint8(images)), columns=columns) for images in (x, x_0))
        both = beside(list(zip(("x_t, noisy", "estimate of x_0"), grids, strict=True)))
        pictures.append(headed(both, [(f"t = {t:g}", 0, both.shape[1])]))
    return np.stack(pictures)


def _few_values(images: np.ndarray) -> np.ndarray:
    """Images `[N, H, W, C]` uint8 of less than 64 pixels with 32 values, which makes a third of the file of a chain."""
    if enlargement(images.shape[1]) == 1:
        return images
    return np.round(np.round(images * (31 / 255)) * (255 / 31)).astype(np.uint8)

"""Images of any project as a source, in the size in which they are stored: a folder, or an array in a file."""

import os

import numpy as np

from ddpm_jax.data.folder import ImageFolder
from ddpm_jax.data.formats import UnreadableImageError, opened
from ddpm_jax.data.in_memory import ArrayImages
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError, one_line, reading, shortened
from ddpm_jax.runtime.arrays import opened_arrays
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import is_dir


def stored_images(path: str | os.PathLike[str]) -> Source:
    """The images below a folder, or those of `FILE.npz` or `FILE.npy`, uint8 `[N, H, W, C]` (`arr_0` in an npz file).

    The images of a folder are grey if all of them are, and in colour otherwise.

    Raises:
      UserError: there are none, they cannot be read, or those of a folder are not all squares of one size.
    """
    path = any_path(path)
    if path.suffix in (".npz", ".npy"):
        return ArrayImages(_array(path))
    with reading(path):
        is_folder = is_dir(path)
    if not is_folder:
        raise UserError(f"{path} is not a folder of images, nor an array of images in a .npz or .npy file")
    images = ImageFolder(path, size=1)
    sizes, grey = {}, True
    for index, name in enumerate(images.paths):
        try:
            with opened(images.encoded(index)) as image:
                sizes.setdefault(image.size, name)
                grey = grey and image.mode in ("1", "L", "LA", "I;16", "I")
        except UnreadableImageError as error:
            raise UserError(one_line(f"cannot use {path / name}: {error}")) from error
    if len(sizes) > 1 or any(width != height for width, height in sizes):
        shown = ", ".join(f"{name} is {width}x{height}" for (width, height), name in list(sizes.items())[:2])
        raise UserError(one_line(f"the images of {path} must be squares of one size: {shown}"))
    return ImageFolder(path, size=next(iter(sizes))[0], channels=1 if grey else 3)


def _array(path: AnyPath) -> np.ndarray:
    """The array in a file; raises a UserError if there is none."""
    with opened_arrays(path) as content:
        if path.suffix == ".npy":
            return content
        if "arr_0" not in content.files:
            names = shortened(str(content.files))
            raise UserError(f"{path} does not contain the images as an array arr_0 [N, H, W, C], but only {names}")
        return content["arr_0"]

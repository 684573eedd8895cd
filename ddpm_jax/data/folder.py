"""A folder of images as a source: your own pictures, without any code.

    photos/a.jpg                    no labels
    photos/cats/a.jpg  photos/dogs/b.png      two classes, "cats" and "dogs"

Read next: `encoded.py` for what happens to an image, `pipeline.py` for what happens to a source.
"""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ddpm_jax.data.bucket_files import BucketFiles
from ddpm_jax.data.encoded import EncodedImages
from ddpm_jax.data.formats import checked_read, read_file, suffixes
from ddpm_jax.data.listing import list_images, list_names
from ddpm_jax.errors import UserError, one_line, reading
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path

CACHE_GIB = 20.0
"""The GiB that copies of the images of buckets may take on the disk, if nothing else is said."""


class ImageFolder(EncodedImages):
    """The images below a folder, in the order of their relative paths, labelled by first-level folders.

    The folder is on a disk or in a bucket. Images that all lie in sub-folders have the first-level folder as label, in
    the order of the folders' names; images that all lie in the folder itself have no labels. Hidden files and folders,
    and those that an
    operating system made for its own use, are ignored; links are followed, and each real folder is read once.

    Attributes:
      paths: the images' paths relative to the folder, with "/".
      passed_over: the paths of the other files, by the reason why they are not read.
      empty_folders: the first-level folders without an image.
      note: one line with the number of images and the files that are not read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        size: int,
        channels: int = 3,
        crop: Sequence[int] | None = None,
        skip_unreadable: bool = False,
        cache_gib: float = CACHE_GIB,
    ) -> None:
        """Lists the folder; no image is opened yet.

        Args:
          root: the folder.
          size: side of the images in pixels.
          channels: 1 for grey, 3 for RGB.
          crop: as in `EncodedImages`.
          skip_unreadable: as in `EncodedImages`.
          cache_gib: GiB that the copies of images from buckets may take on the disk; 0 keeps none.

        Raises:
          UserError: the folder does not exist, is not a folder, or has no images; or some images are inside its
            sub-folders and others beside them.
        """
        super().__init__(size=size, channels=channels, crop=crop, skip_unreadable=skip_unreadable)
        self._root = any_path(root)
        with reading(self._root):
            _check_folder(self._root)
            if isinstance(self._root, Path):
                self._files, listing = None, list_images(self._root)
            else:
                self._files = BucketFiles(self._root, limit=int(cache_gib * 2**30))
                listing = list_names(self._files.sizes)
        self.paths, self.passed_over, self.empty_folders = listing.images, listing.passed_over, listing.empty_folders
        if not self.paths:
            raise UserError(f"there are no images in {self._root}: add some ({' '.join(suffixes())}){listing.note()}")
        self.class_names = _class_names(self._root, self.paths)
        self.num_classes = len(self.class_names)
        self._label_of = {name: label for label, name in enumerate(self.class_names)}
        images = "1 image" if len(self.paths) == 1 else f"{len(self.paths):,} images"
        classes = f" in {self.num_classes:,} class folders" if self.class_names else ""
        self.note = one_line(f"{self._root}: {images}{classes}{listing.note()}")

    def __len__(self) -> int:
        """The number of image files."""
        return len(self.paths)

    def image_name(self, index: int) -> str:
        """The path of the image relative to the folder, with "/"."""
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        """The content of an image's file; raises an `UnreadableImageError` if it cannot be read."""
        name = self.paths[index]
        if self._files:
            return checked_read(partial(self._files.read, name), self._files.sizes[name])
        return read_file(self._root / name)

    def _read(self, index: int) -> tuple[bytes, int]:
        return self.encoded(index), self._label_of.get(self.paths[index].partition("/")[0], 0)

    def _name(self, index: int) -> str:
        return str(self._root / self.paths[index])


def _check_folder(root: AnyPath) -> None:
    """Raises a `UserError` if a folder does not exist, or if that cannot be known."""
    with reading(root):
        if not storage.is_dir(root):
            wrong = "is a file, not a folder" if storage.exists(root) else "does not exist"
            raise UserError(f"the image folder {root} {wrong}: give the path of a folder of images")


def _class_names(root: AnyPath, paths: Iterable[str]) -> tuple[str, ...]:
    """The first-level folders of the images, or () when the images lie in `root` itself."""
    loose = next((path for path in paths if "/" not in path), None)
    nested = next((path for path in paths if "/" in path), None)
    if loose and nested:
        raise UserError(
            f"{root} contains images inside of class folders ({nested}) and outside of them ({loose}): "
            "move all images into folders, one folder per class, or all images out of them"
        )
    return tuple(sorted({path.partition("/")[0] for path in paths})) if nested else ()

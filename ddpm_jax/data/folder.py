"""A folder of images as a source: your own pictures, without a line of code.

    photos/a.jpg                    no labels
    photos/cats/a.jpg  photos/dogs/b.png      two classes, "cats" and "dogs"

Read next: `encoded.py` for what happens to an image, `pipeline.py` for what happens to a source.
"""

import os
from pathlib import Path

from ddpm_jax.data.encoded import EncodedImages
from ddpm_jax.data.transforms import UnreadableImageError
from ddpm_jax.errors import UserError
from ddpm_jax.paths import local_path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageFolder(EncodedImages):
    """The images below a folder, in the order of their relative paths, labelled by first-level folders.

    Images that all lie in sub-folders have the first-level folder as label, in the order of the folders'
    names; images that all lie in the folder itself have none. Hidden files and folders are ignored; links are
    followed, each real folder once.

    Attributes:
      paths: the images' paths relative to the folder, with "/".
    """

    def __init__(self, root, *, size, channels=3, crop=None, skip_unreadable=False):
        """Lists the folder; no image is opened yet.

        Args:
          root: the folder.
          size: side of the images in pixels.
          channels: 1 for grey, 3 for RGB.
          crop: as in `EncodedImages`.
          skip_unreadable: as in `EncodedImages`.

        Raises:
          UserError: the folder is missing, no folder, holds no images, or holds some beside and some inside
            its sub-folders.
        """
        super().__init__(size=size, channels=channels, crop=crop, skip_unreadable=skip_unreadable)
        self._root = local_path(root)
        if not self._root.is_dir():
            wrong = "is a file, not a folder" if self._root.exists() else "does not exist"
            raise UserError(f"the image folder {self._root} {wrong}: give the path of a folder of images")
        self.paths = sorted(_image_paths(self._root))
        if not self.paths:
            raise UserError(f"no images in {self._root}: put some there ({' '.join(EXTENSIONS)})")
        self.class_names = _class_names(self._root, self.paths)
        self.num_classes = len(self.class_names)
        self._label_of = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        """The number of image files."""
        return len(self.paths)

    def _read(self, index):
        try:
            data = (self._root / self.paths[index]).read_bytes()
        except OSError as error:
            raise UnreadableImageError(error.strerror) from error
        return data, self._label_of.get(self.paths[index].partition("/")[0], 0)

    def _name(self, index):
        return str(self._root / self.paths[index])


def _image_paths(root):
    """Yields the relative paths of the images below `root`, with "/"."""
    seen, trees = set(), [root]
    while trees:
        for folder, subfolders, files in os.walk(trees.pop(0), onerror=_cannot_list):
            # Each real folder once, for a link may lead back up; links last, lest one take over a class.
            if (real := os.path.realpath(folder)) in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            trees += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            for name in files:
                if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                    yield Path(folder, name).relative_to(root).as_posix()


def _cannot_list(error):
    raise UserError(f"cannot list the folder {error.filename}: {error.strerror}") from error


def _class_names(root, paths):
    """The first-level folders of the images, or () when the images lie in `root` itself."""
    loose = next((path for path in paths if "/" not in path), None)
    nested = next((path for path in paths if "/" in path), None)
    if loose and nested:
        raise UserError(
            f"{root} holds images with a class folder ({nested}) and without one ({loose}): "
            "move all images into folders, one a class, or all out of them"
        )
    return tuple(sorted({path.partition("/")[0] for path in paths})) if nested else ()

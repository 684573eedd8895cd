"""The images of a folder in a bucket, of which a limited number of bytes is kept on the disk of this machine.

An image is downloaded when it is first read, and again when it was read so long ago that others took its place. The
processes of a machine, workers included, share the copies.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from etils import epath

from ddpm_jax.runtime import storage
from ddpm_jax.runtime.paths import cache_folder

_SHARE = 16  # of the limit: so much is added by one process before it looks for copies to remove


class BucketFiles:
    """The files below a folder of a bucket, with copies on the disk.

    Args:
      root: the folder.
      limit: the bytes that all copies of this user may take, about, as each process adds a part of it before it looks
        what the others added; 0 keeps none.
      cache: the folder of the copies; None for the user's cache folder, where there is one.

    Attributes:
      sizes: the size in bytes of every file, by its path relative to the folder, with "/".

    Raises:
      OSError: the folder cannot be listed.
    """

    def __init__(self, root: epath.Path, *, limit: int, cache: Path | None = None) -> None:
        self._root, self._limit, self._added = root, limit, 0
        cache = cache or cache_folder()
        self._cache = cache / "images" if cache and limit else None
        if self._cache and self._cache.is_dir():
            _shrink(self._cache, limit)
        objects = storage.objects_below(root)
        self.sizes = {name: size for name, (size, _) in objects.items()}
        self._generations = {name: generation for name, (_, generation) in objects.items()}

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
          OSError: it cannot be read.
        """
        if self._cache is None:
            return storage.read_bytes(self._root / name)
        identity = f"{self._root / name} {self._generations.get(name)}"  # another one after it was replaced
        copy = self._cache / hashlib.sha256(identity.encode()).hexdigest()[:32]
        try:
            content = copy.read_bytes()
            if len(content) == self.sizes.get(name):
                os.utime(copy)  # the time of its last use
                return content
        except OSError:
            pass
        content = storage.read_bytes(self._root / name)
        self._keep(copy, content)
        return content

    def _keep(self, copy: Path, content: bytes) -> None:
        """Writes a copy; a disk that is full, or that cannot be written to, only makes the program slower."""
        if len(content) > self._limit // 2:
            return
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            self._added += len(content)
            if self._added > self._limit // _SHARE:
                _shrink(copy.parent, self._limit - self._limit // _SHARE - len(content))
                self._added = 0
            with tempfile.NamedTemporaryFile(dir=copy.parent, delete=False) as file:
                file.write(content)
            os.replace(file.name, copy)
        except FileNotFoundError:  # another process has removed the new file to make room
            return
        except OSError:
            self._cache = None


def _shrink(folder: Path, most: int) -> None:
    """Removes the files of a folder that were used least recently until the others have at most so many bytes."""
    files = []
    for entry in os.scandir(folder):
        try:
            status = entry.stat()
        except FileNotFoundError:  # removed by another process
            continue
        files.append((status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most:
            return
        Path(path).unlink(missing_ok=True)
        total -= size

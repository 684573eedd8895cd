"""Writes a small file whole: a reader sees the file before or the file after, never a part."""

import contextlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replaces the content of a file, which is made if absent; its folder must exist.

    Raises:
      OSError: it cannot be written; the file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise

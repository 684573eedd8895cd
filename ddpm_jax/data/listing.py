"""What a folder of images contains: the images, and all other files, so that none is ignored without a note.

Read next: `folder.py`, which makes a source of the images.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ddpm_jax.data.formats import suffixes, supported_formats, why_not
from ddpm_jax.errors import UserError, listed

# Folders that operating systems and devices create beside the user's own; like hidden ones, they are ignored.
_OF_THE_SYSTEM = {"@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found", "#recycle"}
_SHOWN = 3  # names of each kind in a note


@dataclass
class Listing:
    """The files below a folder, by their relative paths with "/"; hidden files and the system's own are left out.

    Attributes:
      images: paths of the images, sorted.
      passed_over: paths of the other files, sorted, by the reason (`formats.why_not`).
      empty_folders: names of the first-level folders without an image of their own, sorted.
    """

    images: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    empty_folders: list[str] = field(default_factory=list)

    def note(self) -> str:
        """The files that are not read, as the end of a sentence, with the first names of each kind; "" if all are."""
        kinds = [
            f"{_count(paths, 'file')} {reason} ({listed(paths, _SHOWN)})" for reason, paths in self.passed_over.items()
        ]
        note = f"; skipped {', '.join(kinds)}" if kinds else ""
        if self.empty_folders and any("/" in path for path in self.images):
            so = (
                "contain no images and are not classes"
                if len(self.empty_folders) > 1
                else "contains no images and is not a class"
            )
            which = listed(self.empty_folders, _SHOWN)
            note += f"; {_count(self.empty_folders, 'folder')} {so} ({which})"
        return note


def list_images(root: Path) -> Listing:
    """Lists the files below a folder of the disk; no image is opened.

    Raises:
      UserError: a folder cannot be listed.
    """
    folders: set[str] = set()
    return listing(_files(root, folders), folders)


def list_names(paths: Iterable[str]) -> Listing:
    """Lists the files of a folder in a bucket, which has no other folders than those that files are in.

    Args:
      paths: the relative paths of all files, with "/".
    """
    shown = [path for path in paths if not any(map(_hidden, path.split("/")))]
    return listing(shown, {path.partition("/")[0] for path in shown if "/" in path})


def listing(paths: Iterable[str], folders: set[str]) -> Listing:
    """The `Listing` of files.

    Args:
      paths: the relative paths of the files.
      folders: the names of the first-level folders, which may grow while the paths are taken.
    """
    read, others = suffixes(supported_formats()), defaultdict(list)
    images = []
    for path in paths:
        if path.lower().endswith(read):
            images.append(path)
        else:
            others[why_not(path)].append(path)
    images.sort()
    empty = sorted(folders - {path.partition("/")[0] for path in images})
    return Listing(images, {reason: sorted(others[reason]) for reason in sorted(others)}, empty)


def _files(root: Path, folders: set[str]) -> Iterator[str]:
    """Yields the relative paths of the files below `root`, with "/"; adds the names of its folders to a set."""
    seen, trees = set(), [root]
    while trees:
        for folder, subfolders, files in os.walk(trees.pop(0), onerror=_cannot_list):
            # Each real folder is read once, since a link may lead back up; links come last, so that a class keeps the
            # images that a link leads to as well.
            if (real := os.path.realpath(folder)) in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
            if Path(folder) == root:
                folders.update(subfolders)
            trees += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            for name in files:
                if not name.startswith("."):
                    yield Path(folder, name).relative_to(root).as_posix()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def _cannot_list(error: OSError) -> None:
    raise UserError(f"cannot list the folder {error.filename}: {error.strerror}") from error


def _count(things: list[str], what: str) -> str:
    return f"{len(things):,} {what}" + "s" * (len(things) != 1)

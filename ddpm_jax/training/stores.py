"""Where the checkpoints of a run lie, who may write them, and how one becomes visible: on a disk, and in a bucket.

On a disk a checkpoint is a folder `checkpoints/STEP`, to which Orbax gives its name when it is complete, and a lock of
the system keeps others out. A bucket has neither names that can be changed nor locks: there each process that trains
writes under a prefix of its own, `checkpoints/TERM/STEP`, and a checkpoint exists once `checkpoints/manifest.json`,
which is also the lease of the run (`runtime/lease.py`), lists it. Read next: `checkpoint.py`.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from etils import epath

from ddpm_jax.errors import TransientError, UserError, first_line
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import agreed, is_first
from ddpm_jax.runtime.lease import Content, Lease
from ddpm_jax.runtime.paths import MANIFEST

Keep = Callable[[Sequence[int]], Sequence[int]]
"""Which of the steps with a checkpoint, in rising order, are kept."""
_TERM, _PLACE = re.compile(r"t\d+"), re.compile(r"(t\d+/)?\d+")  # of a term, and of a checkpoint, in the folder


def checkpoint_paths(folder: AnyPath) -> dict[int, AnyPath]:
    """The folders of the finished checkpoints in a checkpoints folder by their steps, newest first.

    They are those of the manifest, and those that lie in the folder itself: on a disk, or as they were copied from one.

    Raises:
      UserError: the folder exists and cannot be listed.
    """
    try:
        listed, places = storage.names(folder), {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # a listing may lag behind what can be read
            places = _places(json.loads(storage.read_bytes(folder / MANIFEST)))
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot list the checkpoints in {folder}: {reason}; fix the cause, and start again") from error
    except ValueError as error:
        raise UserError(f"cannot list the checkpoints in {folder}: {MANIFEST} there is damaged") from error
    if isinstance(folder, Path) or not places:
        places = {**{int(name): name for name in listed if _is_step(name)}, **places}
    return {step: folder / places[step] for step in sorted(places, reverse=True)}


def checkpoint_path(folder: AnyPath, step: int) -> AnyPath:
    """The folder of the checkpoint of a step, which need not exist (any more)."""
    return checkpoint_paths(folder).get(step, folder / str(step))


def _is_step(name: str) -> bool:
    """Whether this is the name of a checkpoint's folder."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _places(content: Any) -> dict[int, str]:
    """The places of the checkpoints that a manifest lists, by their steps, relative to its folder.

    Raises:
      ValueError: it is not a manifest.
    """
    places = content.get("checkpoints", {}) if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(_PLACE.fullmatch(str(place)) for place in places.values()):
        raise ValueError("not a manifest")
    return {int(step): place for step, place in places.items()}


class Store(Protocol):
    """Where the process that trains writes its checkpoints, while it alone may do so.

    Attributes:
      folder: the checkpoints folder of the run.
      root: the folder in which Orbax writes a folder for each step.
      term: the number of this start among those that wrote the run; 0 where that is not counted.
      publishes: whether `publish` has to be called, in the background, when Orbax has written a checkpoint.
    """

    folder: AnyPath
    root: AnyPath
    term: int
    publishes: bool

    def check(self) -> None:
        """Raises a `UserError` if another process is known to train there instead of this one."""
        ...

    def publish(self, step: int) -> None:
        """Makes a checkpoint visible that Orbax has written, and removes those that are no longer kept."""
        ...

    def set_aside(self, steps: Sequence[int]) -> None:
        """Keeps damaged checkpoints where they are no longer taken for those of their steps."""
        ...

    def forget(self, steps: Sequence[int]) -> None:
        """Removes checkpoints."""
        ...

    def close(self) -> None:
        """Lets another process train there."""
        ...


def open_store(folder: AnyPath, keep: Keep, *, held: bool = False) -> "Store":
    """The store of a checkpoints folder, which is made if absent, for this process until it is closed.

    If there are several processes, the first one has the lock.

    Args:
      folder: the folder.
      keep: the checkpoints that a bucket keeps; on a disk Orbax removes the others.
      held: whether another store that is open keeps all others away from this one.

    Raises:
      UserError: another process trains there.
      OSError: the folder cannot be made or locked.
    """
    return Folders(folder) if isinstance(folder, Path) else Bucket(folder, keep, held=held)


class Folders:
    """The `Store` of a disk; the system releases its lock when the process ends in any way."""

    term, publishes = 0, False

    def __init__(self, folder: Path) -> None:
        self.folder: AnyPath = folder
        self.root: AnyPath = folder
        self._held = contextlib.ExitStack()
        if is_first():
            folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._adopt()

    def check(self) -> None:
        """A lock of the system cannot be lost."""

    def publish(self, step: int) -> None:
        """Orbax has done it by renaming the folder."""

    def set_aside(self, steps: Sequence[int]) -> None:
        """Moves the checkpoints to `WORKDIR/damaged_checkpoints`."""
        folder = self.folder.parent / "damaged_checkpoints"
        for step in steps:
            path = self.folder / str(step)
            names = itertools.chain([path.name], (f"{path.name}.{i}" for i in itertools.count(1)))
            try:
                folder.mkdir(exist_ok=True)
                aside = next(folder / name for name in names if not os.path.lexists(folder / name))
                path.rename(aside)
            except OSError as error:
                raise UserError(f"cannot move the damaged checkpoint {path} to {folder}: {error.strerror}") from error
            _note_kept(aside)

    def forget(self, steps: Sequence[int]) -> None:
        """Removes checkpoints."""
        for step in steps if is_first() else ():
            storage.remove_tree(self.folder / str(step))

    def close(self) -> None:
        """Releases the lock."""
        self._held.close()

    def _lock(self) -> None:
        """Locks the folder for this process."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        self._held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise TransientError(
                f"another process is training in {self.folder.parent}; wait until it ends, or choose another workdir"
            ) from error
        except OSError:  # a file system without locks
            pass

    def _adopt(self) -> None:
        """Gives a run that was copied from a bucket the form of one on a disk."""
        if not (self.folder / MANIFEST).exists():
            return
        for step, path in checkpoint_paths(self.folder).items():
            if path != self.folder / str(step) and path.is_dir():
                path.rename(self.folder / str(step))
        (self.folder / MANIFEST).unlink()


class Bucket:
    """The `Store` of a bucket, whose manifest is the lease of the run.

    The manifest has "checkpoints", the place of each by its step, and "damaged", the places of damaged ones.
    """

    publishes = True

    def __init__(self, folder: epath.Path, keep: Keep, *, held: bool) -> None:
        self.folder: AnyPath = folder
        self._keep = keep
        self._lease: Lease | None = None  # of the first process only
        term = 0
        if is_first():
            found = {str(step): str(path.relative_to(folder)) for step, path in checkpoint_paths(folder).items()}
            first = {"checkpoints": found, "damaged": []}
            self._lease = Lease(folder / MANIFEST, what=str(folder.parent), first=first, now=held)
            term = self._lease.term
            self._sweep()
        self.term = int(agreed(np.array(term)))
        self.root: AnyPath = folder / f"t{self.term}"

    def check(self) -> None:
        """Raises a `LostError` if another process is known to have taken over."""
        if self._lease:
            self._lease.check()

    def publish(self, step: int) -> None:
        """Adds a checkpoint of this term to the manifest, takes those out that are not kept, and removes these."""
        if not self._lease:
            return
        dropped: dict[str, str] = {}

        def added(content: Content) -> Content:
            dropped.clear()
            places = {**content["checkpoints"], str(step): f"{self.root.name}/{step}"}
            kept = {str(kept) for kept in self._keep(sorted(map(int, places)))}
            dropped.update({step: place for step, place in places.items() if step not in kept})
            return {**content, "checkpoints": {step: place for step, place in places.items() if step in kept}}

        self._lease.update(added)
        self._remove(dropped.values())

    def set_aside(self, steps: Sequence[int]) -> None:
        """Lists the checkpoints as damaged; they stay where they are."""
        if not self._lease:
            return
        for place in self._unlisted(steps, into=["damaged"]):
            _note_kept(self.folder / place)

    def forget(self, steps: Sequence[int]) -> None:
        """Removes the checkpoints."""
        if self._lease:
            self._remove(self._unlisted(steps))

    def close(self) -> None:
        """Releases the lease."""
        if self._lease:
            self._lease.close()

    def _unlisted(self, steps: Sequence[int], *, into: Sequence[str] = ()) -> list[str]:
        """Takes the checkpoints of these steps out of the manifest, into other lists of it; returns their places."""
        assert self._lease is not None, "only the first process writes"
        places = self._lease.content["checkpoints"]
        moved = [places[str(step)] for step in steps if str(step) in places]
        self._lease.update(
            lambda content: {
                **content,
                "checkpoints": {step: place for step, place in content["checkpoints"].items() if place not in moved},
                **{name: [*content[name], *moved] for name in into},
            }
        )
        return moved

    def _sweep(self) -> None:
        """Removes what earlier terms have left half written."""
        assert self._lease is not None, "only the first process writes"
        content = self._lease.content
        listed = {*content["checkpoints"].values(), *content["damaged"]}
        earlier = [name for name in storage.names(self.folder) if _TERM.fullmatch(name)]
        below = [f"{term}/{name}" for term in earlier for name in storage.names(self.folder / term)]
        self._remove(place for place in below if place not in listed)

    def _remove(self, places: Iterable[str]) -> None:
        """Removes folders that the manifest no longer lists."""
        for place in places:
            with contextlib.suppress(OSError):  # nobody looks at what is left
                storage.remove_tree(self.folder / place)


class Publisher:
    """Publishes checkpoints one after another in a thread, each when Orbax has written it.

    Args:
      store: the `Store`.
      written: function that waits until Orbax has written the checkpoint that it has begun, or raises why it cannot.
    """

    def __init__(self, store: Store, written: Callable[[], object]) -> None:
        self._store, self._written = store, written
        self._thread = ThreadPoolExecutor(1, "publish")
        self._begun: Future[None] | None = None

    def begin(self, step: int) -> None:
        """Starts to wait for a checkpoint whose writing has begun."""
        self._begun = self._thread.submit(self._publish, step)

    def wait(self) -> None:
        """Waits until it is published; raises what went wrong, once."""
        begun, self._begun = self._begun, None
        if begun:
            begun.result()
        else:
            self._written()

    def _publish(self, step: int) -> None:
        """Waits for a checkpoint and publishes it."""
        self._written()
        self._store.publish(step)


def forget(folder: AnyPath, steps: Sequence[int]) -> None:
    """Removes checkpoints of a folder in which this process alone may train; raises an `OSError` if it cannot."""
    if not steps:
        return
    if isinstance(folder, Path):
        for step in steps:
            storage.remove_tree(folder / str(step))
        return
    with contextlib.closing(Bucket(folder, keep=lambda known: known, held=True)) as store:
        store.forget(steps)


def _note_kept(place: AnyPath) -> None:
    """Prints where a damaged checkpoint is kept."""
    print(f"note: the damaged checkpoint is kept in {place}", file=sys.stderr, flush=True)

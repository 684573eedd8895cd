"""The checkpoints of a run on a disk, which Orbax names when they are complete. Read next: `stores.py`."""

import contextlib
import fcntl
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from ddpm_jax.errors import BusyError, UserError
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import MANIFEST
from ddpm_jax.training.listing import listed_places, places_without_manifest


class Folders:
    """The `Store` of a disk; the system releases its lock when the process ends in any way."""

    publishes = False

    def __init__(self, folder: Path) -> None:
        self.term = 0
        self.folder: AnyPath = folder
        self.root: AnyPath = folder
        self._held = contextlib.ExitStack()

    def open(self) -> None:
        """Makes the folder if it is absent, and locks it."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self._lock()
        self._adopt()

    def check(self) -> None:
        """A lock of the system cannot be lost."""

    def begin(self) -> None:
        """Orbax makes what it needs."""

    def publish(self, step: int) -> None:
        """Orbax has done it by renaming the folder."""

    def set_aside(self, steps: Sequence[int]) -> list[AnyPath]:
        """Moves the checkpoints to `WORKDIR/damaged_checkpoints`."""
        folder, moved = self.folder.parent / "damaged_checkpoints", list[AnyPath]()
        for step in steps:
            path = self.folder / str(step)
            names = itertools.chain([path.name], (f"{path.name}.{i}" for i in itertools.count(1)))
            try:
                folder.mkdir(exist_ok=True)
                aside = next(folder / name for name in names if not os.path.lexists(folder / name))
                path.rename(aside)
            except OSError as error:
                raise UserError(f"cannot move the damaged checkpoint {path} to {folder}: {error.strerror}") from error
            moved.append(aside)
        return moved

    def forget(self, steps: Sequence[int]) -> None:
        """Removes checkpoints."""
        for step in steps:
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
            raise BusyError(
                f"another process is training in {self.folder.parent}; wait until it ends, or choose another workdir"
            ) from error
        except OSError:  # a file system without locks
            pass

    def _adopt(self) -> None:
        """Converts a run that was copied from a bucket to the layout of a run on a disk.

        Raises:
          UserError: it was copied over another run.
        """
        if not (self.folder / MANIFEST).exists():
            return
        listed = listed_places(self.folder)
        copied = {step: place for step, place in listed.items() if "/" in place and (self.folder / place).is_dir()}
        others = [step for step in places_without_manifest(self.folder) if step in copied or step not in listed]
        if copied and others:
            raise UserError(
                f"a run of a bucket was copied over the run in {self.folder.parent}, whose newest checkpoint is that "
                f"of step {max(others)}: copy it into an empty folder, and remove {self.folder / MANIFEST} to "
                "continue the run that was here"
            )
        for step, place in copied.items():
            (self.folder / place).rename(self.folder / str(step))
        (self.folder / MANIFEST).unlink()

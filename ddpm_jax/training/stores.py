"""Where the checkpoints of a run lie, who may write them, and how one becomes visible: on a disk, and in a bucket.

On a disk a checkpoint is a folder `checkpoints/STEP`, to which Orbax gives its name when it is complete, and a lock of
the system keeps others out. A bucket has neither names that can be changed nor locks: there each process that trains
writes under a prefix of its own, `checkpoints/TERM/STEP`, and a checkpoint exists once `checkpoints/manifest.json`,
which is also the lease of the run (`runtime/lease.py`), lists it. Read next: `folder_store.py`, `bucket_store.py`.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.training.bucket_store import Bucket, Keep
from ddpm_jax.training.folder_store import Folders


class Store(Protocol):
    """Where the process that trains writes its checkpoints, while it alone may do so.

    Attributes:
      folder: the checkpoints folder of the run.
      term: the number of this start among those that wrote the run, in all processes once it is agreed; 0 where that is
        not counted.
      publishes: whether `publish` has to be called, in the background, when Orbax has written a checkpoint.
    """

    folder: AnyPath
    term: int
    publishes: bool

    @property
    def root(self) -> AnyPath:
        """The folder in which Orbax writes a folder for each step; it depends on the term."""
        ...

    def open(self) -> None:
        """Keeps all other processes away until `close`; the first process calls it.

        Raises:
          UserError: another process trains there, or the checkpoints there cannot be listed.
          OSError: the folder cannot be made or locked.
        """
        ...

    def check(self) -> None:
        """Raises a `UserError` if another process is known to train there instead of this one."""
        ...

    def begin(self) -> None:
        """Raises as `check`, before a checkpoint is written."""
        ...

    def publish(self, step: int) -> None:
        """Makes a checkpoint visible that Orbax has written, and removes those that are no longer kept."""
        ...

    def set_aside(self, steps: Sequence[int]) -> list[AnyPath]:
        """Keeps damaged checkpoints where they are no longer taken for those of their steps; returns where they are.

        The first process calls it. A new term may begin.
        """
        ...

    def forget(self, steps: Sequence[int]) -> None:
        """Removes checkpoints; the first process calls it. A new term may begin."""
        ...

    def close(self) -> None:
        """Lets another process train there, also if `open` has failed."""
        ...


def store_of(folder: AnyPath, keep: Keep, *, of: int | None = None) -> Store:
    """The store of a checkpoints folder, which is to be opened and closed.

    Args:
      folder: the folder.
      keep: the checkpoints that a bucket keeps; on a disk Orbax removes the others.
      of: the term of the run whose open store keeps all others away from this one; None if this one is the run's.
    """
    return Folders(folder) if isinstance(folder, Path) else Bucket(folder, keep, of=of)


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


def claim(folder: AnyPath, without: Sequence[int], *, of: int) -> None:
    """Takes a folder from processes that trained the run before, and removes checkpoints; the first process calls it.

    Args:
      folder: a checkpoints folder from which the open store of a run keeps all other processes away.
      without: the steps of the checkpoints that are removed.
      of: the term of that run: a process of an earlier term cannot write here from now on.

    Raises:
      LostError: a process of a later term has done so.
      OSError: the folder cannot be written.
    """
    if without or not isinstance(folder, Path):
        with contextlib.closing(store_of(folder, keep=lambda known: known, of=of)) as store:
            store.open()
            store.forget(without)

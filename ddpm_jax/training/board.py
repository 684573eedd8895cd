"""TensorBoard's file of a run: events are appended on a disk; in a bucket parts of it are uploaded now and then."""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.quiet import unless_loaded

with unless_loaded("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

_SECONDS = 60.0  # between two uploads of a part
_BYTES = 2**23  # of a part, after which another one begins


class Board:
    """The events of one start of a run.

    Args:
      folder: the folder of TensorBoard's files, `WORKDIR/tensorboard`.
      start_step: the number of steps already taken; events of earlier starts after that step are hidden.

    Raises:
      OSError: the folder cannot be written.
    """

    def __init__(self, folder: AnyPath, *, start_step: int) -> None:
        self._folder = folder
        self._spool = None if isinstance(folder, Path) else Path(tempfile.mkdtemp(prefix="tensorboard_"))
        self._part, self._uploaded = 0, time.monotonic()
        self._writer = self._opened(self._spool / "0" if self._spool else Path(folder))
        self.add(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, **content: Summary | SessionLog) -> None:
        """Writes an event; `content` is one field of `Event`."""
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()
        if self._spool and step and time.monotonic() - self._uploaded > _SECONDS:
            self.store()

    def store(self) -> None:
        """Uploads what was added to a board in a bucket; raises an `OSError` if that is impossible."""
        if not self._spool:
            return
        for file in (self._spool / str(self._part)).iterdir():
            storage.write_bytes(self._folder / f"{file.name}.{self._part}", file.read_bytes())
            if file.stat().st_size > _BYTES:
                self._writer.close()
                self._part += 1
                self._writer = self._opened(self._spool / str(self._part))
        self._uploaded = time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # nothing is left to write but what failed before
            self._writer.close()
        if self._spool:
            shutil.rmtree(self._spool, ignore_errors=True)

    def _opened(self, folder: Path) -> EventsWriter:
        """A new file in a folder of the disk; not a `SummaryWriter`: in its thread a full disk ends in tracebacks."""
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))  # a file that was begun in the same second has the same name before it
        return EventsWriter(str(folder / "events"), f".{number}")

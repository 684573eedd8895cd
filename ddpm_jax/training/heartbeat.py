"""The state of a run in one small file, `WORKDIR/status.json`, for whoever watches or starts it again.

The first process writes it at the start of a run, at every line of the log, and at its end, with the time, so that its
age is known as well. `jobs/status` reads it.
"""

import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ddpm_jax.errors import AgreedError, first_line, is_transient
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.background import Newest
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import is_first, lost_connection
from ddpm_jax.runtime.lease import LostError
from ddpm_jax.training.sinks import LogLine, Sink, Start

_SECONDS = 10.0  # between two writes to a bucket while a run is training
_OF_THE_ERROR = ("last_error", "last_error_time", "host", "pid")
WAITING, TRAINING, STOPPED, FINISHED, NEEDS_YOU = "waiting", "training", "stopped", "finished", "needs you"


@dataclasses.dataclass(frozen=True)
class Status:
    """What is known of a run at one time; None is what is not known. Times are seconds since 1970, in UTC.

    Attributes:
      state: "waiting" before the first line of the log of a start, "training" from then on; "stopped" by a signal, or
        by an error that may pass if the run is started again; "finished" after the last step; "needs you" after an
        error that a person must mend.
      step: the number of steps taken.
      num_steps: the number of the last step.
      steps_per_s: training speed since the line of the log before.
      images_per_s: the same in images.
      mfu: the share of the devices' peak arithmetic that the training steps reach at this speed.
      seconds_left: seconds until the last step at this speed.
      seconds_per_line: seconds between two lines of the log at this speed, after which the next one is due.
      checkpoint_step: the step of the newest checkpoint on disk.
      checkpoint_time: when it was complete.
      held_out_loss: the last measured loss on held-out images.
      last_error: the error that ended the last start which an error has ended, in one line.
      last_error_time: when that was.
      host: name of the machine of the process that wrote this.
      pid: number of that process.
      time: when this was written.
    """

    state: str
    step: int | None = None
    num_steps: int | None = None
    steps_per_s: float | None = None
    images_per_s: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    seconds_per_line: float | None = None
    checkpoint_step: int | None = None
    checkpoint_time: float | None = None
    held_out_loss: float | None = None
    last_error: str | None = None
    last_error_time: float | None = None
    host: str | None = None
    pid: int | None = None
    time: float | None = None

    def ended(self, state: str) -> Self:
        """Returns the status of the same run after it has ended."""
        return dataclasses.replace(self, state=state, seconds_left=0.0 if state == FINISHED else None)


def status_file(workdir: AnyPath) -> AnyPath:
    """The file in which a run's status is."""
    return workdir / "status.json"


def read_status(workdir: AnyPath) -> Status | None:
    """Returns the status that a run has written; None if it has written none that can be read.

    Raises:
      OSError: the file exists and cannot be read.
    """
    try:
        content = json.loads(storage.read_bytes(status_file(workdir)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("state"), str):
        return None
    known = {field.name for field in dataclasses.fields(Status)}  # a later version may have others
    return Status(**{name: value for name, value in content.items() if name in known})


def needs_a_person(error: Exception) -> bool:
    """Whether a person must mend what ended a run; otherwise it may pass if the run is started again."""
    return not (is_transient(error) or lost_connection(error))


class Heartbeat(Sink):
    """Keeps `WORKDIR/status.json` up to date; a context manager that writes how the run has ended.

    As a sink of the log it learns the steps; as a context manager also what happens before and after the log is open.

    While a run in a bucket trains, it is written in a thread, because that takes several requests.

    Only the first process writes, except for an error of another process alone that a person must mend. A status that
    cannot be written is a warning, because the run does not depend on it.

    Args:
      workdir: the run's directory, which exists.
      num_steps: the number of the last step; None if that is not known.
      last_checkpoint: function that returns the step of the newest checkpoint on disk and its time, or None.
    """

    def __init__(
        self, workdir: AnyPath, num_steps: int | None, last_checkpoint: Callable[[], tuple[int, float] | None]
    ) -> None:
        self._workdir, self._last_checkpoint = workdir, last_checkpoint
        self._warned, self._written, self._later = False, float("-inf"), Newest("status")
        earlier = self._read() or Status(WAITING)
        kept: dict[str, Any] = {
            name: getattr(earlier, name) for name in ("step", "held_out_loss", "last_error", "last_error_time")
        }
        self._status = Status(WAITING, num_steps=num_steps, host=socket.gethostname(), pid=os.getpid(), **kept)

    def __enter__(self) -> Self:
        """Writes that the run waits for its first step; returns self."""
        if is_first():
            self._write(state=WAITING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Writes how the run has ended, unless another process has taken it over and writes its own status."""
        self._later.wait()
        if isinstance(error, LostError):
            return
        steps, last = self._status.step, self._status.num_steps
        if error is None:
            state = FINISHED if steps is not None and last is not None and steps >= last else STOPPED
        elif isinstance(error, Exception):
            state = NEEDS_YOU if needs_a_person(error) else STOPPED
        else:  # Ctrl-C, SIGTERM
            state = STOPPED
        alone = state == NEEDS_YOU and not isinstance(error, AgreedError)
        if alone or (is_first() and not self._needs_you_by_another()):
            self.write_end(state, error)

    def write_end(self, state: str, error: BaseException | None) -> None:
        """Writes in which state the run has ended, and the error that has ended it, if it is one."""
        if isinstance(error, Exception):
            said: dict[str, Any] = {"last_error": first_line(error), "last_error_time": time.time()}
            self._status = dataclasses.replace(self._status, **said)
        known = self._status if is_first() else self._read() or self._status  # the first one knows the numbers
        fields: dict[str, Any] = {name: getattr(self._status, name) for name in _OF_THE_ERROR}
        self._status = dataclasses.replace(known, **fields).ended(state)
        self._write()

    def start(self, start: Start) -> None:
        """Takes the step at which this start of the run begins."""
        self._write(step=start.step)

    def line(self, line: LogLine) -> None:
        """Takes a new line of the log."""
        speed, step = line["steps_per_s"], line["step"]
        last, before = self._status.step or 0, self._status.state
        known: dict[str, Any] = {
            "state": TRAINING,
            "step": step,
            "steps_per_s": speed,
            "images_per_s": line["images_per_s"],
            "mfu": line.get("mfu"),
            "seconds_left": ((self._status.num_steps or 0) - step) / max(speed, 1e-9),
            "seconds_per_line": (step - last) / max(speed, 1e-9),
            "held_out_loss": line.get("held_out_loss", self._status.held_out_loss),
        }
        self._status = dataclasses.replace(self._status, **known)
        if not storage.in_bucket(self._workdir):
            self._store()
        elif before != TRAINING or time.monotonic() - self._written >= _SECONDS:
            self._written = time.monotonic()
            self._later.run(self._store)

    def _needs_you_by_another(self) -> bool:
        """Whether another process of this start has written an error of its own that a person must mend."""
        found = self._read()
        return found is not None and found.state == NEEDS_YOU

    def _read(self) -> Status | None:
        """Returns what the file holds, or None."""
        try:
            return read_status(self._workdir)
        except OSError:
            return None

    def _write(self, **changes: Any) -> None:
        """Writes the status with these changes."""
        self._status = dataclasses.replace(self._status, **changes)
        self._later.wait()  # or an older one would replace it
        self._store()

    def _store(self) -> None:
        """Writes the present status with the newest checkpoint and the time."""
        try:
            step, when = self._last_checkpoint() or (None, None)
            at: dict[str, Any] = {"checkpoint_step": step, "checkpoint_time": when, "time": time.time()}
            text = json.dumps(dataclasses.asdict(dataclasses.replace(self._status, **at)), indent=1)
            storage.write_bytes(status_file(self._workdir), f"{text}\n".encode())
        except Exception as error:
            if not self._warned:
                self._warned = True
                print(f"warning: cannot write the status of the run: {first_line(error)}", file=sys.stderr, flush=True)

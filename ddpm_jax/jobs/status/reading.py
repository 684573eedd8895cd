"""What a run is doing, from the status that it writes or, of a run of an earlier version, from its log and checkpoints.

Nothing is written, no lock is taken and no device is used, so a run can be looked at while it trains.
"""

import contextlib
import os
import socket
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError, reading
from ddpm_jax.jobs.status.spans import span
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import run_folder
from ddpm_jax.training.heartbeat import FINISHED, STOPPED, TRAINING, WAITING, Status, read_status
from ddpm_jax.training.listing import checkpoint_paths

# A run that is silent for longer is said to be silent: seconds, lines of its log, seconds before the first line.
_PATIENCE_SECONDS, _PATIENCE_LINES, _PATIENCE_WAITING = 120, 3, 1800


NO_RUN, NOT_READABLE = "no run", "not readable"
"""The states of what is not a run: nothing is there yet, or what is there could not be learned."""


class Observed(NamedTuple):
    """A run as it is seen at one time.

    Attributes:
      workdir: its directory, as it was given.
      status: its last `Status`; None if the directory holds no run, or cannot be read.
      silent_seconds: seconds since that was written; None if that is not known.
      notes: what a person should know of it, in sentences.
      error: why it cannot be read; None if it can be.
    """

    workdir: AnyPath | str
    status: Status | None
    silent_seconds: float | None
    notes: tuple[str, ...]
    error: UserError | None = None

    @property
    def state(self) -> str:
        """Its state, `NO_RUN` or `NOT_READABLE`."""
        if self.error is not None:
            return NOT_READABLE
        return NO_RUN if self.status is None else self.status.state

    def as_json(self) -> dict[str, Any]:
        """Returns the fields by name, those of the status beside the others."""
        fields = {} if self.status is None else self.status.__dict__
        rest = {"silent_seconds": self.silent_seconds, "notes": list(self.notes)}
        return {"workdir": str(self.workdir), **fields, "state": self.state, **rest}


def observe(workdir: AnyPath, *, now: float) -> Observed:
    """Returns what a run is doing.

    Args:
      workdir: its directory.
      now: the time, in seconds since 1970.

    Raises:
      UserError: the directory does not exist or cannot be read.
    """
    with reading(workdir):
        if not storage.is_dir(workdir):
            raise UserError(f"{workdir} is not a directory: give the work directories of runs")
        status = read_status(workdir) or _of_an_earlier_version(workdir, now=now)
    if status is None:
        return Observed(workdir, None, None, ("there is no run here yet",))
    silent = None if status.time is None else max(0.0, now - status.time)
    return Observed(workdir, status, silent, (*_notes(status, silent, now), *_note_of_checkpoints(workdir)))


def observed(workdir: str, *, now: float) -> Observed:
    """Does the same as `observe` of an address; one that cannot be read is returned with its error."""
    try:
        return observe(run_folder(workdir), now=now)
    except UserError as error:
        return Observed(workdir, None, None, (f"not readable: {error}",), error)


def _notes(status: Status, silent: float | None, now: float) -> list[str]:
    """Returns what a person should know of a run: that its process is gone or silent, and its last error."""
    notes, lives = [], status.state in (WAITING, TRAINING)
    if lives and _is_gone(status):
        notes.append(f"{status.state}, but its process {status.pid} has ended without a word: start it again")
    elif lives and silent is not None and silent > _patience(status):
        notes.append(f"{status.state}, but nothing heard for {span(silent)}")
    if status.last_error and status.state != FINISHED:
        when = "" if status.last_error_time is None else f", {span(now - status.last_error_time)} ago"
        notes.append(f"last error{when}: {status.last_error}")
    return notes


def _note_of_checkpoints(workdir: AnyPath) -> list[str]:
    """Returns why the checkpoints of a run cannot be listed, such as a manifest that is missing; [] if they can be."""
    try:
        checkpoint_paths(workdir / "checkpoints")
    except UserError as error:
        return [str(error)]
    return []


def _patience(status: Status) -> float:
    """Returns the seconds of silence that are usual for a run; one that waits may compile its step."""
    least = _PATIENCE_SECONDS if status.state != WAITING else _PATIENCE_WAITING
    return max(least, _PATIENCE_LINES * (status.seconds_per_line or 0))


def _is_gone(status: Status) -> bool:
    """Whether the process that wrote a status on this machine no longer exists."""
    if status.pid is None or status.host != socket.gethostname():
        return False
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # the process of another user
        return False
    return False


def _of_an_earlier_version(workdir: AnyPath, *, now: float) -> Status | None:
    """Returns the status that the log and the checkpoints of a run show; None if there are none.

    Such a run does not say that it ends: it is taken for training as long as its log is not silent for longer than is
    usual.
    """
    from ddpm_jax.training.log import read_log  # these libraries take seconds to load
    from ddpm_jax.training.restoring import newest_checkpoint, stored_config

    lines, checkpoint = read_log(workdir), newest_checkpoint(workdir)
    if not lines and checkpoint is None:
        return None
    last = lines[-1] if lines else {}
    checkpoint_step, checkpoint_time = checkpoint or (None, None)
    step = max(last.get("step", 0), checkpoint_step or 0)
    heard = max(_heard(workdir), checkpoint_time or 0.0)
    speed, num_steps = last.get("steps_per_s"), None
    with contextlib.suppress(UserError):  # it is damaged
        num_steps = (stored_config(workdir) or {}).get("train", {}).get("num_steps")
    between = (step - lines[-2]["step"]) / speed if len(lines) > 1 and speed else None
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    status = Status(
        TRAINING,
        step=step,
        num_steps=num_steps,
        steps_per_s=speed,
        images_per_s=last.get("images_per_s"),
        seconds_left=(num_steps - step) / speed if num_steps and speed else None,
        seconds_per_line=between,
        checkpoint_step=checkpoint_step,
        checkpoint_time=checkpoint_time,
        held_out_loss=held_out[-1] if held_out else None,
        time=heard,
    )
    if num_steps is not None and step >= num_steps:
        return status.ended(FINISHED)
    return status if now - heard <= _patience(status) else status.ended(STOPPED)


def _heard(workdir: AnyPath) -> float:
    """Returns when the log of a run was last written, in seconds since 1970; 0 if there is none."""
    files = [workdir / "log.jsonl", *(workdir / "log" / name for name in storage.names(workdir / "log"))]
    return max((storage.modified(file) for file in files if storage.exists(file)), default=0.0)

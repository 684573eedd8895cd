"""Checkpoints: the whole state and its configuration, written by Orbax in the background, read back onto any devices.

A checkpoint is a folder `WORKDIR/checkpoints/STEP`. Orbax writes it under another name and renames it when it is
complete, so an interrupted save is never mistaken for a checkpoint. The digests of `integrity.py` are stored with it
and compared with what is read back: a damaged checkpoint is reported and kept, and the one before it is read instead.
Read next: `integrity.py`.
"""

import contextlib
import fcntl
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.metadata import array_metadata_store

from ddpm_jax.errors import TransientError, UserError, causes, first_line, lacks_space
from ddpm_jax.runtime.devices import agreed, is_first
from ddpm_jax.training import integrity
from ddpm_jax.training.divergence import Recent, no_steps
from ddpm_jax.training.restoring import (
    check_fits,
    newest_whole,
    note_unverified,
    reason,
    saved_steps,
    stored_fields,
    stored_record,
)
from ddpm_jax.training.state import TrainState

_policies = ocp.checkpoint_managers


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    While it is open, no other process can train in the same directory.

    Args:
      workdir: the run's directory; checkpoints are written to `workdir/checkpoints`.
      every: the number of steps between regular checkpoints; others are saved by the clock or at the end of a run.
      keep: how many of the latest regular checkpoints are kept. The newest two of all checkpoints are kept too, or
        only the newest one if `keep` is 1.
      keep_every: checkpoints whose step is a multiple of this number are kept for good; 0 for none.

    Raises:
      UserError: the directory cannot be written, or another process trains there.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, every: int = 1, keep: int = 3, keep_every: int = 0) -> None:
        self.folder, self._held = Path(workdir).resolve() / "checkpoints", contextlib.ExitStack()
        preservation = [_policies.LatestN(min(keep, 2)), _LatestRegular(every, keep)]
        preservation += [_policies.EveryNSteps(keep_every)] if keep_every else []
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_policies.AnyPreservationPolicy(preservation), cleanup_tmp_directories=True
        )
        try:
            _lock(self.folder, self._held)  # first, or Orbax would delete the save of another process as a leftover
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=_handlers())
        except OSError as error:
            raise UserError(f"cannot write to {workdir}: {error.strerror or error}; choose another workdir") from error

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for the save in progress; its failure is only a warning if another error ends the run."""
        try:
            self.wait()
            self._guard(self._manager.close)
        except UserError as failed:
            if error_type is None:
                raise
            _warn(failed)
        finally:
            self._held.close()

    def save(self, state: TrainState, config: dict[str, Any]) -> None:
        """Starts to save the state under its step; returns while the files are still being written.

        Args:
          state: the state, whose step names the checkpoint.
          config: the run's configuration as JSON, which is stored with it.

        Raises:
          UserError: this save or the one before could not be written (because the disk is full, for example).
        """
        record = integrity.Record(config, integrity.digests_on_first(state))  # only the first process saves it
        items = {
            "state": ocp.args.PyTreeSave(state),
            "config": ocp.args.JsonSave(integrity.to_json(record)),
        }
        self._guard(lambda: self._manager.save(int(state.step), args=ocp.args.Composite(**items), force=True))

    def wait(self) -> None:
        """Waits until the last save is on disk; raises as `save`."""
        self._guard(self._manager.wait_until_finished)

    def last_saved(self) -> int | None:
        """Waits for the save in progress, whose failure is a warning, and returns the newest step on disk, or None."""
        try:
            self.wait()
        except Exception as failed:
            _warn(failed)
        return next(iter(saved_steps(self.folder)), None)

    def remove_after(self, step: int) -> None:
        """Removes all checkpoints of later steps, the newest first, so that these steps can be taken again."""
        self.wait()
        for later in [saved for saved in saved_steps(self.folder) if saved > step]:
            self._guard(partial(self._manager.delete, later))

    def restore(self, target: TrainState) -> TrainState | None:
        """Reads the newest undamaged checkpoint onto the devices and shardings of `target`; None without checkpoints.

        Damaged checkpoints are moved to `WORKDIR/damaged_checkpoints`, so that their steps can be saved again.

        Args:
          target: `TrainState` whose leaves are `jax.ShapeDtypeStruct` with shardings.

        Raises:
          UserError: there are checkpoints and all are damaged; or one cannot be read, or holds another network.
        """
        step, restored = newest_whole(self.folder, partial(self._read, target=target))
        if step is None or restored is None:
            return None
        if is_first():
            _set_aside([self.folder / str(s) for s in saved_steps(self.folder) if s > step])
        agreed(np.zeros(()))  # no process continues before they are moved
        self._manager.reload()
        return restored

    def _read(self, step: int, *, target: TrainState) -> TrainState:
        """Reads the state of a step and checks it."""
        path = self.folder / str(step)
        record = stored_record(path)
        stored = stored_fields(target, path)
        check_fits(stored, record, path)
        options = ocp.args.PyTreeRestore(
            stored, restore_args=ocp.checkpoint_utils.construct_restore_args(stored), partial_restore=True
        )
        read = jax.block_until_ready(ocp.PyTreeCheckpointer().restore(path / "state", args=options))
        integrity.check(read, record.digests)
        restored = target.replace(**{"recent": _nothing_recent(target), **read})
        if int(restored.step) != step:
            raise integrity.DamagedError(f"it contains step {int(restored.step)}")
        note_unverified(
            record,
            path,
            "; that version also drew noise differently, so from now on the noise is not what it would have drawn",
        )
        return restored

    def _guard(self, action: Callable[[], object]) -> None:
        """Runs a part of a save and turns an error into a `UserError`, with the remedy if it is known."""
        earlier = sys.exception()
        try:
            action()
        except Exception as error:
            _forget(earlier, error)
            lost = next((cause for cause in causes(error) if isinstance(cause, jax.errors.JaxRuntimeError)), None)
            if lost:
                raise lost from error  # the disk is not the cause: another process has ended
            remedy = "free some space, and start again" if lacks_space(error) else "fix the cause, and start again"
            raise UserError(
                f"cannot save a checkpoint in {self.folder}: {reason(error)}; {_kept(self.folder)}; {remedy}"
            ) from error


@dataclass(frozen=True)
class _LatestRegular:
    """A policy for Orbax that preserves the latest `keep` of the checkpoints whose step is a multiple of `every`."""

    every: int
    keep: int

    def should_preserve(
        self, checkpoints: Sequence[_policies.PolicyCheckpointInfo], *, context: _policies.PreservationContext
    ) -> list[bool]:
        """Returns for each checkpoint, from the oldest to the newest, whether it is preserved."""
        regular = [checkpoint.step for checkpoint in checkpoints if checkpoint.step % self.every == 0]
        return [checkpoint.step in regular[-self.keep :] for checkpoint in checkpoints]


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    """Returns the handlers of a checkpoint's two items, which write every part of an array once, from one device.

    Orbax's default cuts an array that several devices hold into one piece per device, by a program that is compiled
    for each shape.
    """
    arrays = ocp.type_handlers.ArrayHandler(
        use_replica_parallel=False,
        array_metadata_store=array_metadata_store.Store(),  # stores the implementation of the root key
    )
    types = ocp.type_handlers
    of_type = types.create_type_handler_registry(
        *((kind, arrays if kind is jax.Array else types.get_type_handler(kind)) for kind in types.supported_types())
    )
    return {"state": ocp.PyTreeCheckpointHandler(type_handler_registry=of_type), "config": ocp.JsonCheckpointHandler()}


def _nothing_recent(target: TrainState) -> Recent:
    """The memory of a run of an earlier version, which stored none: that of step 0, placed as the target says."""
    return jax.jit(no_steps, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target.recent))()


def _forget(earlier: BaseException | None, error: Exception) -> None:
    """Removes an exception that was already being handled when a save began from the causes of `error`."""
    for cause in causes(error):
        if cause.__context__ is earlier:
            cause.__context__ = None


def _warn(error: Exception) -> None:
    """Prints why a save failed, as a warning: the run ends with another error."""
    print(f"warning: {first_line(error)}", file=sys.stderr, flush=True)


def _kept(folder: Path) -> str:
    """Returns in words from which checkpoint a run can resume."""
    steps = saved_steps(folder)
    return f"the last good checkpoint is step {steps[0]}" if steps else "no earlier checkpoint exists"


def _lock(folder: Path, held: contextlib.ExitStack) -> None:
    """Locks a folder, which is made if absent, for this process until `held` is closed.

    If there are several processes, the first one has the lock. The system releases it when the process ends in any
    way.
    """
    if not is_first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held.close()
        raise TransientError(
            f"another process is training in {folder.parent}; wait until it ends, or choose another workdir"
        ) from error
    except OSError:  # a file system without locks
        pass


def _set_aside(paths: list[Path]) -> None:
    """Moves damaged checkpoints to `WORKDIR/damaged_checkpoints`."""
    for path in paths:
        folder = path.parents[1] / "damaged_checkpoints"
        names = itertools.chain([path.name], (f"{path.name}.{i}" for i in itertools.count(1)))
        try:
            folder.mkdir(exist_ok=True)
            aside = next(folder / name for name in names if not os.path.lexists(folder / name))
            path.rename(aside)
        except OSError as error:
            raise UserError(f"cannot move the damaged checkpoint {path} to {folder}: {error.strerror}") from error
        print(f"note: the damaged checkpoint is kept in {aside}", file=sys.stderr, flush=True)

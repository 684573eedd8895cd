"""Checkpoints: the whole state and its configuration, written by Orbax in the background, read back onto any devices.

A checkpoint is a folder `WORKDIR/checkpoints/STEP`. Orbax writes it under another name and renames it when it is
whole, so an interrupted save is never taken for a checkpoint. The digests of `integrity.py` are stored with it and
compared with what is read back: a damaged checkpoint is named and kept, and the one before it is taken. Read next:
`integrity.py`.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from ddpm_jax import integrity
from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.parallel import agreed, is_first
from ddpm_jax.state import TrainState

_policies = ocp.checkpoint_managers
_ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone")


class Checkpoints:
    """The checkpoints of one run, which nobody else writes meanwhile; a context manager that waits for the last save.

    Args:
      workdir: the run's directory; checkpoints go to `workdir/checkpoints`.
      keep: how many of the latest are kept.
      keep_every: and one for every so many steps for good; 0 for none.

    Raises:
      UserError: the directory cannot be written, or another process trains there.
    """

    def __init__(self, workdir, *, keep=3, keep_every=0):
        self.folder, self._patience = Path(workdir).resolve() / "checkpoints", contextlib.ExitStack()
        preservation = [_policies.LatestN(keep)] + ([_policies.EveryNSteps(keep_every)] if keep_every else [])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_policies.AnyPreservationPolicy(preservation), cleanup_tmp_directories=True
        )
        try:
            _lock(self.folder, self._patience)  # before what others are writing is cleared away as left over
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise UserError(
                f"cannot write to {workdir}: {error.strerror or error}; choose another --workdir"
            ) from error

    def __enter__(self):
        """Returns self."""
        self._patience.enter_context(_patient_event_loops())
        return self

    def __exit__(self, error_type, error, traceback):
        """Finishes the save that is under way; an error that is already on its way is not covered by another."""
        try:
            self.wait()
            self._guard(self._manager.close)
        except UserError:
            if error_type is None:
                raise
        finally:
            self._patience.close()

    def save(self, state: TrainState, config: ConfigDict) -> None:
        """Starts to save the state under its step; returns while the files are still being written.

        Raises:
          UserError: this save or the one before could not be written (a full disk, say).
        """
        record = integrity.Record(to_json(config), integrity.digests(state))
        items = {"state": ocp.args.StandardSave(state), "config": ocp.args.JsonSave(integrity.to_json(record))}
        self._guard(lambda: self._manager.save(int(state.step), args=ocp.args.Composite(**items), force=True))

    def wait(self):
        """Waits until the last save is on disk; raises as `save`."""
        self._guard(self._manager.wait_until_finished)

    def restore(self, target: TrainState) -> TrainState | None:
        """The newest checkpoint that is whole, on the devices and shardings of `target`; None where there is none.

        Damaged ones are moved to `WORKDIR/damaged_checkpoints`, so that their steps can be saved again.

        Args:
          target: `TrainState` of `jax.ShapeDtypeStruct` with shardings.

        Raises:
          UserError: there are checkpoints and all are damaged; or one cannot be read, or is of another network.
        """
        several = jax.process_count() > 1
        probe = (lambda step: _check_alone(self.folder / str(step))) if several else partial(self._read, target=target)
        step, restored = _newest_whole(self.folder, probe) if is_first() else (None, None)
        step = int(agreed(np.array(-1 if step is None else step)))
        if step < 0:
            return None
        restored = self._read(step, target=target) if several else restored
        if is_first():
            _set_aside([self.folder / str(s) for s in saved_steps(self.folder) if s > step])
        agreed(np.zeros(()))  # no process continues before they are aside
        self._manager.reload()
        return restored

    def _read(self, step: int, *, target: TrainState) -> TrainState:
        """The state of a step, checked."""
        path = self.folder / str(step)
        record = _record(path)
        _check_fits(target, record, path)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        restored = jax.block_until_ready(self._manager.restore(step, args=items)["state"])
        integrity.check(restored, record.digests)
        if record.digests is None and is_first():
            print(
                f"note: checkpoint {path} was made by an earlier version, which stored no digests to verify it by, and "
                "drew noise otherwise: from here on the noise differs from what that version would have drawn",
                flush=True,
            )
        return restored

    def _guard(self, action):
        """Runs a save and turns what the disk says into one line."""
        try:
            action()
        except Exception as error:
            if isinstance(_root(error), jax.errors.JaxRuntimeError):
                raise _root(error) from error  # not the disk: another process is gone
            steps = saved_steps(self.folder)
            kept = f"the last good checkpoint is step {steps[0]}" if steps else "there is no earlier checkpoint"
            raise UserError(
                f"cannot save a checkpoint in {self.folder}: {_reason(error)}; {kept}; free some space and start again"
            ) from error


def _lock(folder, held):
    """Makes a folder this process's, or of many the first's, for as long as `held`, an `ExitStack`, is open.

    The system lets go of it at the end of the process, however that comes.
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
        raise UserError(
            f"another process is training in {folder.parent}; wait for it or choose another --workdir"
        ) from error
    except OSError:  # a file system without locks
        pass


def saved_steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the finished checkpoints in a checkpoints folder, newest first.

    Raises:
      UserError: the folder is there and cannot be listed.
    """
    try:
        return sorted((int(name) for name in os.listdir(folder) if name.isdigit()), reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot list the checkpoints in {folder}: {error.strerror}") from error


def stored_config(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """The configuration (JSON) of the run's newest checkpoint whose configuration is whole; None without checkpoints.

    Raises:
      UserError: as `Checkpoints.restore`.
    """
    folder = Path(workdir).resolve() / "checkpoints"
    record = _newest_whole(folder, lambda step: _record(folder / str(step)))[1]
    return record and record.config


def restore_params(workdir: str | os.PathLike, params: Any, *, name: str) -> tuple[int, Any]:
    """Parameters alone, for sampling.

    Args:
      workdir: the run's directory.
      params: tree of `jax.ShapeDtypeStruct` with shardings.
      name: "params" for the trained, "ema_params" for the averaged ones.

    Returns:
      The step and the parameters.

    Raises:
      UserError: there is no checkpoint, or as `Checkpoints.restore`.
    """
    folder, target = Path(workdir).resolve() / "checkpoints", {name: params}

    def read(step):
        path = folder / str(step)
        record = _record(path)
        _check_fits(target, record, path)
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        options = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        restored = jax.block_until_ready(ocp.PyTreeCheckpointer().restore(path / "state", args=options))
        integrity.check(restored, record.digests)
        return restored

    step, restored = _newest_whole(folder, read)
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet; train first, or wait for the first save")
    return step, restored[name]


def _record(path: Path) -> integrity.Record:
    """What is stored beside the arrays of a checkpoint."""
    handler = ocp.Checkpointer(
        ocp.JsonCheckpointHandler(multiprocessing_options=_ALONE), multiprocessing_options=_ALONE
    )
    return integrity.from_json(handler.restore(path / "config"))


def _check_alone(path: Path) -> None:
    """Checks the whole checkpoint in this process, one of several, without the others."""
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_ALONE)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=_ALONE)
    saved = checkpointer.metadata(path / "state").item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    restored = checkpointer.restore(path / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    integrity.check(restored, _record(path).digests)


def _check_fits(target: Any, record: integrity.Record, path: Path) -> None:
    """Refuses a checkpoint that is whole and of another network than the target."""
    misfits = integrity.misfits(target, record.digests) if record.digests is not None else []
    if misfits:
        raise UserError(
            f"checkpoint {path} was made by another version of this program or of its libraries: {len(misfits)} arrays "
            f"have other names or shapes there, {misfits[0]} among them; open it with that version"
        )


def _newest_whole(folder: Path, read: Callable[[int], Any]) -> tuple[int | None, Any]:
    """The newest step that `read(step)` can read, and what it gave; (None, None) where there is no checkpoint.

    Raises:
      UserError: one cannot be read though it may be whole, or all are damaged.
    """
    damaged = []
    while steps := [step for step in saved_steps(folder) if step not in damaged]:
        path = folder / str(steps[0])
        try:
            with _patient_event_loops():
                return steps[0], read(steps[0])
        except UserError:
            raise
        except Exception as error:
            damaged.append(steps[0])
            if not os.path.lexists(path):  # deleted meanwhile by the process that trains
                continue
            obstacle = integrity.obstacle(path, error)
            if obstacle:
                raise UserError(f"cannot read checkpoint {path} ({obstacle}); it is left as it is") from error
            print(
                f"warning: checkpoint {path} is damaged ({_reason(error)}); taking the one before it",
                file=sys.stderr,
                flush=True,
            )
    if damaged:
        raise UserError(f"every checkpoint in {folder} is damaged; move the folder away to start from the beginning")
    return None, None


def _set_aside(paths: list[Path]) -> None:
    """Moves damaged checkpoints to `WORKDIR/damaged_checkpoints`."""
    for path in paths:
        aside = path.parents[1] / "damaged_checkpoints" / path.name
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)


class _PatientEventLoop(asyncio.SelectorEventLoop):
    """An event loop that ends what is under way before it closes."""

    def close(self):
        """Waits for the tasks that are left; what they raise is of no interest any more."""
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def _patient_event_loops():
    """Orbax closes its loop at the first array that cannot be read or written; each other would print a traceback."""
    original, asyncio.new_event_loop = asyncio.new_event_loop, _PatientEventLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = original


def _root(error):
    """The exception that all began with."""
    while error.__cause__:
        error = error.__cause__
    return error


def _reason(error):
    """The first line of an exception's root cause; of TensorStore's long ones the end, which says what happened."""
    line = first_line(_root(error)).partition(" [tensorstore_spec")[0]
    return line if len(line) <= 160 else re.split(r": (?=[A-Z])", line)[-1]

"""Checkpoints: the whole state and its configuration, written by Orbax in the background, read back onto any devices.

A checkpoint is a folder `WORKDIR/checkpoints/STEP`. Orbax writes it under another name and renames it when it is
whole, so an interrupted save is never taken for a checkpoint. A checkpoint that cannot be read is passed over for the
one before.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.parallel import agreed, is_first

_policies = ocp.checkpoint_managers


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

    def save(self, state, config):
        """Starts to save the state under its step; returns at once, while the writing goes on.

        Raises:
          UserError: this save or the one before could not be written (a full disk, say).
        """
        step = int(state.step)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(to_json(config)))
        self._guard(lambda: self._manager.save(step, args=items, force=True))

    def wait(self):
        """Waits until the last save is on disk; raises as `save`."""
        self._guard(self._manager.wait_until_finished)

    def restore(self, target):
        """The latest checkpoint that can be read, on the devices and shardings of `target`; None where there is none.

        A checkpoint that cannot be read is moved to `WORKDIR/damaged_checkpoints`, so that its step can be saved again.

        Args:
          target: `TrainState` of `jax.ShapeDtypeStruct` with shardings.

        Raises:
          UserError: there are checkpoints and none can be read.
        """

        def read(step):
            items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            return jax.block_until_ready(self._manager.restore(step, args=items)["state"])

        step, restored = _newest_readable(self.folder, read)
        if restored is None:
            return None
        for damaged in [s for s in saved_steps(self.folder) if s > step and is_first()]:
            aside = self.folder.parent / "damaged_checkpoints" / str(damaged)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self.folder / str(damaged)).rename(aside)
        agreed(np.zeros(()))  # nobody goes on before they are aside
        self._manager.reload()
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


def saved_steps(folder):
    """Steps of the finished checkpoints in a checkpoints folder, newest first."""
    folder = Path(folder)
    return sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)


def stored_config(workdir):
    """The configuration (JSON) of the run's newest readable checkpoint, or None where there is no checkpoint."""
    folder = Path(workdir).resolve() / "checkpoints"
    handler = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    return _newest_readable(folder, lambda step: handler.restore(folder / str(step) / "config"))[1]


def restore_params(workdir, params, *, name):
    """Parameters alone, for sampling.

    Args:
      workdir: the run's directory.
      params: tree of `jax.ShapeDtypeStruct` with shardings.
      name: "params" for the trained, "ema_params" for the averaged ones.

    Returns:
      The step and the parameters.

    Raises:
      UserError: there is no checkpoint, or none can be read.
    """
    folder = Path(workdir).resolve() / "checkpoints"
    target = {name: params}
    handler = ocp.PyTreeCheckpointer()

    def read(step):
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        options = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        return jax.block_until_ready(handler.restore(folder / str(step) / "state", args=options))

    step, restored = _newest_readable(folder, read)
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet; train first, or wait for the first save")
    return step, restored[name]


def _newest_readable(folder, read):
    """The newest step that `read(step)` can read, and what it gave; (None, None) where there is none."""
    steps = saved_steps(folder)
    for step in steps:
        try:
            with _patient_event_loops():
                return step, read(step)
        except Exception as error:
            path = folder / str(step)
            print(f"warning: cannot read checkpoint {path} ({_reason(error)}); trying the one before", file=sys.stderr)
    if steps:
        raise UserError(
            f"none of the {len(steps)} checkpoints in {folder} can be read; move the folder away to start anew"
        )
    return None, None


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
    return line if len(line) <= 160 else line.rpartition(": ")[2]

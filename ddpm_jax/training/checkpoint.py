"""Checkpoints: the whole state and its configuration, written by Orbax in the background, read back onto any devices.

A checkpoint is a folder, `WORKDIR/checkpoints/STEP` on a disk, which is visible when it is complete and not before
(`stores.py`), so an interrupted save is never mistaken for a checkpoint. The digests of `integrity.py` are stored with
it and compared with what is read back: a damaged checkpoint is reported and kept, and the one before it is read
instead. Read next: `stores.py`, `integrity.py`.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.metadata import array_metadata_store

from ddpm_jax.errors import TransientError, UserError, causes, first_line, lacks_space
from ddpm_jax.runtime.buckets import AnyPath, did_not_answer
from ddpm_jax.runtime.devices import agreed, by_first
from ddpm_jax.runtime.kept_memory import keep_less_of_saves
from ddpm_jax.runtime.lease import LostError
from ddpm_jax.runtime.paths import absolute, any_path
from ddpm_jax.training import integrity
from ddpm_jax.training.divergence import Recent, no_steps
from ddpm_jax.training.listing import checkpoint_path
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
from ddpm_jax.training.stores import Publisher, store_of

keep_less_of_saves()
_policies = ocp.checkpoint_managers


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    While it is open, no other process can train in the same directory.

    Args:
      workdir: the run's directory, on a disk or in a bucket; checkpoints are written to `workdir/checkpoints`.
      every: the number of steps between regular checkpoints; others are saved by the clock or at the end of a run.
      keep: how many of the latest regular checkpoints are kept. The newest two of all checkpoints are kept too, or
        only the newest one if `keep` is 1.
      keep_every: checkpoints whose step is a multiple of this number are kept for good; 0 for none.
      of: the term of the open `Checkpoints` that keep all other processes away from this directory, if others do.

    Raises:
      UserError: the directory cannot be written, or another process trains there.

    Attributes:
      folder: the folder of the checkpoints.
      term: the number of this start among those that wrote a run in a bucket, 0 on a disk; a roll-back may raise it.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        every: int = 1,
        keep: int = 3,
        keep_every: int = 0,
        of: int | None = None,
    ) -> None:
        self.folder = absolute(any_path(workdir)) / "checkpoints"
        self._kept = _Kept(every, keep, keep_every)
        self._store = store_of(self.folder, self._kept.of, of=of)
        with contextlib.ExitStack() as failing:
            failing.callback(self._store.close)
            # First, or Orbax would delete the save of another process as a leftover.
            by_first(_writable(workdir)(self._store.open))
            self.term = self._agreed_term()
            with _writable(workdir):
                self._manager = self._opened()
            failing.pop_all()
        self._publisher = Publisher(self._store, lambda: self._manager.wait_until_finished())

    def _agreed_term(self) -> int:
        """The term of the first process, which becomes that of the store of every process."""
        self._store.term = int(agreed(np.array(self._store.term)))
        return self._store.term

    def _opened(self) -> ocp.CheckpointManager:
        """Orbax's manager of the folder in which this process writes."""
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_policies.LatestN(None) if self._store.publishes else self._kept,
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self._store.root, options=options, item_handlers=_handlers())

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
            self._store.close()

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
        self._guard(partial(self._begin, int(state.step), ocp.args.Composite(**items)))

    def _begin(self, step: int, items: ocp.args.Composite) -> None:
        """Starts to write a checkpoint, after the one before is visible."""
        self._publisher.wait()
        self._store.begin()
        self._manager.save(step, args=items, force=True)
        if self._store.publishes:
            self._publisher.begin(step)

    def wait(self) -> None:
        """Waits until the last save is complete and visible; raises as `save`."""
        self._guard(self._publisher.wait)

    def check_held(self, step: int, state: object, metrics: object) -> None:
        """Raises a `UserError` if another process trains here instead of this one; a `Hook` of the training loop."""
        self._store.check()

    def still_held(self, step: int, state: object) -> dict[str, float]:
        """Does the same as `check_held`, before a line of the log is written; a `Measure` that measures nothing."""
        self._store.check()
        return {}

    def last_saved(self) -> int | None:
        """Waits for the save in progress and returns the newest stored step, or None if there is none.

        It is called while another error ends the run, so a save that fails is a warning.

        Raises:
          UserError: the checkpoints cannot be listed.
        """
        try:
            self.wait()
        except Exception as failed:
            _warn(failed)
        return next(iter(saved_steps(self.folder)), None)

    def remove_after(self, step: int) -> None:
        """Removes all checkpoints of later steps, the newest first, so that these steps can be taken again."""
        self.wait()
        later = [saved for saved in saved_steps(self.folder) if saved > step]
        if self._store.publishes:
            by_first(partial(self._guard, partial(self._store.forget, later)))
            self._look_again()
        else:
            for saved in later:
                self._guard(partial(self._manager.delete, saved))

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
        by_first(partial(self._set_aside_after, step))
        self._look_again()
        return restored

    def _set_aside_after(self, step: int) -> None:
        """Keeps the checkpoints of later steps, which are damaged, where they are no longer taken for such."""
        for place in self._store.set_aside([later for later in saved_steps(self.folder) if later > step]):
            print(f"note: the damaged checkpoint is kept in {place}", file=sys.stderr, flush=True)

    def _look_again(self) -> None:
        """Has Orbax see which checkpoints are left, in the folder of a new term if one has begun."""
        before, self.term = self.term, self._agreed_term()
        if self.term == before:
            self._manager.reload()
        else:
            self._manager.close()
            self._manager = self._opened()

    def _read(self, step: int, *, target: TrainState) -> TrainState:
        """Reads the state of a step and checks it."""
        path = checkpoint_path(self.folder, step)
        record = stored_record(path)
        stored = stored_fields(target, path)
        check_fits(stored, record, path)
        options = ocp.args.PyTreeRestore(
            stored, restore_args=ocp.checkpoint_utils.construct_restore_args(stored), partial_restore=True
        )
        read = jax.block_until_ready(ocp.PyTreeCheckpointer().restore(path / "state", args=options))
        integrity.check(read, record.digests)
        if "recent" not in read:
            read = {**read, "recent": _nothing_recent(target)}
        restored = target.replace(**read)
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
            taken_over = next((cause for cause in causes(error) if isinstance(cause, LostError)), None)
            if taken_over:
                raise taken_over from error
            lost = next((cause for cause in causes(error) if isinstance(cause, jax.errors.JaxRuntimeError)), None)
            if lost:
                raise lost from error  # the disk is not the cause: another process has ended
            what = f"cannot save a checkpoint in {self.folder}: {reason(error)}; {_kept(self.folder)}"
            if did_not_answer(self.folder, error):
                raise TransientError(f"{what}; start the same command again") from error
            remedy = "free some space, and start again" if lacks_space(error) else "fix the cause, and start again"
            raise UserError(f"{what}; {remedy}") from error


@contextlib.contextmanager
def _writable(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an error of the storage in the body, which opens the checkpoints of a run, into a `UserError`."""
    try:
        yield
    except (UserError, jax.errors.JaxRuntimeError):  # the latter is from another process
        raise
    except Exception as error:
        what = f"cannot write to {workdir}: {getattr(error, 'strerror', None) or first_line(error)}"
        if did_not_answer(any_path(workdir), error):
            raise TransientError(f"{what}; start the same command again") from error
        if isinstance(error, OSError):
            raise UserError(f"{what}; choose another workdir") from error
        raise


class _Kept:
    """A policy for Orbax that preserves the newest two of all checkpoints, and the latest regular ones.

    Args:
      every, keep, keep_every: as for `Checkpoints`.
    """

    def __init__(self, every: int, keep: int, keep_every: int) -> None:
        self._every, self._keep, self._keep_every = every, keep, keep_every

    def of(self, steps: Sequence[int]) -> list[int]:
        """The steps that are kept of those with a checkpoint, in rising order."""
        regular = [step for step in steps if step % self._every == 0]
        kept = {*steps[-min(self._keep, 2) :], *regular[-self._keep :]}
        return [step for step in steps if step in kept or (self._keep_every and step % self._keep_every == 0)]

    def should_preserve(
        self, checkpoints: Sequence[_policies.PolicyCheckpointInfo], *, context: _policies.PreservationContext
    ) -> list[bool]:
        """Returns for each checkpoint, from the oldest to the newest, whether it is preserved."""
        kept = self.of([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


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


def _kept(folder: AnyPath) -> str:
    """Returns in words from which checkpoint a run can resume."""
    try:
        steps = saved_steps(folder)
    except UserError:  # the storage that has just failed
        return "which earlier checkpoints there are cannot be listed now"
    return f"the last good checkpoint is step {steps[0]}" if steps else "no earlier checkpoint exists"

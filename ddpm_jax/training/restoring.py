"""Reads checkpoints: which steps there are, the newest undamaged one, its configuration, its parameters.

A damaged checkpoint is reported and kept, and the one before it is read instead. If a checkpoint cannot be read for
another reason, the search ends with that reason. Read next: `integrity.py`.
"""

import contextlib
import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddpm_jax.errors import TransientError, UserError, causes, first_line
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath, did_not_answer
from ddpm_jax.runtime.devices import agreed, is_first, lost_connection
from ddpm_jax.runtime.paths import absolute, any_path
from ddpm_jax.runtime.quiet import quieten_orbax
from ddpm_jax.training import integrity
from ddpm_jax.training.listing import checkpoint_path, checkpoint_paths
from ddpm_jax.training.state import TrainState, Tree

quieten_orbax()
_PART = 2**28  # bytes of a checkpoint that are checked at once, when one process checks it for the others

Content = TypeVar("Content")  # what is read from a checkpoint


def saved_steps(folder: str | os.PathLike[str]) -> list[int]:
    """Returns the steps of the finished checkpoints in a checkpoints folder, newest first.

    Raises:
      UserError: the folder exists and cannot be listed.
    """
    return list(checkpoint_paths(any_path(folder)))


def newest_checkpoint(workdir: str | os.PathLike[str]) -> tuple[int, float] | None:
    """Returns the step of the newest finished checkpoint of a run and when it was finished, or None.

    Raises:
      UserError: as `saved_steps`.
    """
    for step, path in checkpoint_paths(any_path(workdir) / "checkpoints").items():
        with contextlib.suppress(OSError):  # deleted in the meantime
            return step, storage.modified(path if isinstance(path, Path) else path / "_CHECKPOINT_METADATA")
    return None


def stored_config(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns the newest undamaged configuration (JSON) in a run's checkpoints, or None without checkpoints.

    Raises:
      UserError: as `Checkpoints.restore`.
    """
    folder = absolute(any_path(workdir)) / "checkpoints"
    read = lambda step: stored_record(checkpoint_path(folder, step))
    record = newest_whole(folder, read, check=read)[1]
    return record.config if record else None


def restore_params(
    workdir: str | os.PathLike[str], shapes_of: Callable[[dict[str, Any]], Content], *, name: str
) -> tuple[int, dict[str, Any], Content]:
    """Reads the configuration and the parameters from the newest undamaged checkpoint, for sampling.

    Args:
      workdir: the run's directory.
      shapes_of: function from the stored configuration (JSON) to the shapes of the parameters, a tree of
        `jax.ShapeDtypeStruct` with shardings.
      name: "params" for the trained parameters, "ema_params" for their moving average.

    Returns:
      The step, the configuration (JSON) and the parameters.

    Raises:
      UserError: there is no checkpoint, its configuration defines no valid network, or as `Checkpoints.restore`.
    """
    folder = absolute(any_path(workdir)) / "checkpoints"

    def read(step: int) -> tuple[dict[str, Any], Content]:
        path = checkpoint_path(folder, step)
        record = stored_record(path)
        target = {name: _shapes(shapes_of, record, path)}
        check_fits(target, record, path)
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        options = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        restored = jax.block_until_ready(ocp.PyTreeCheckpointer().restore(path / "state", args=options))
        integrity.check(restored, record.digests)
        note_unverified(record, path)
        return record.config, restored[name]

    step, found = newest_whole(folder, read)
    if step is None or found is None:
        raise UserError(f"{workdir} has no checkpoint yet; train first, or wait for the first save")
    return step, *found


def _shapes(shapes_of: Callable[[dict[str, Any]], Tree], record: integrity.Record, path: AnyPath) -> Tree:
    """Returns the shapes for a stored configuration; an error is not damage, so the checkpoint is left as it is."""
    try:
        return shapes_of(record.config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the configuration of checkpoint {path} does not describe a valid network: {first_line(error)}"
        ) from error


def _alone(handler: Callable[..., ocp.CheckpointHandler]) -> ocp.Checkpointer:
    """Returns a checkpointer that this process uses without the other processes, if there are any."""
    index = jax.process_index()
    prefix = f"process_{index}"
    options = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=prefix
    )
    return ocp.Checkpointer(handler(multiprocessing_options=options), multiprocessing_options=options)


def stored_record(path: AnyPath) -> integrity.Record:
    """Reads what is stored beside the arrays of a checkpoint.

    Args:
      path: the folder of the checkpoint, whose name is its step.

    Raises:
      DamagedError: it is not what was saved, or belongs to another step than the folder's name.
    """
    record = integrity.from_json(_alone(ocp.JsonCheckpointHandler).restore(path / "config"))
    if record.digests is not None:
        integrity.check({"step": np.int32(path.name)}, record.digests)
    return record


def stored_fields(target: TrainState, path: AnyPath) -> dict[str, Tree]:
    """Returns the fields of the target that a checkpoint has: earlier versions stored no `recent` and no `teacher`.

    Args:
      target: the state that is wanted.
      path: the folder of the checkpoint.
    """
    fields = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
    metadata = _alone(ocp.PyTreeCheckpointHandler).metadata(path / "state").item_metadata
    assert metadata is not None, "it is that of a tree"
    return {name: fields[name] for name in fields if name in metadata.tree or name not in ("recent", "teacher")}


def note_unverified(record: integrity.Record, path: AnyPath, consequence: str = "") -> None:
    """Prints a note if a checkpoint of an earlier version was opened without digests, and the consequence."""
    if record.digests is None and is_first():
        print(
            f"note: checkpoint {path} was made by an earlier version, which stored no digests to verify its "
            f"content{consequence}",
            flush=True,
        )


def _check_alone(path: AnyPath) -> None:
    """Checks a whole checkpoint without the other processes, in parts, as it may not fit on the first host."""
    checkpointer, record = _alone(ocp.PyTreeCheckpointHandler), stored_record(path)
    metadata = checkpointer.metadata(path / "state").item_metadata
    assert metadata is not None, "it is that of a tree"
    leaves, tree = jax.tree.flatten(metadata.tree)
    for part in _parts([math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves]):
        kinds = [np.ndarray if i in part else type(ocp.PLACEHOLDER) for i in range(len(leaves))]
        items = [leaf if i in part else ocp.PLACEHOLDER for i, leaf in enumerate(leaves)]
        restore_args = [ocp.RestoreArgs(restore_type=kind) for kind in kinds]
        args = ocp.args.PyTreeRestore(tree.unflatten(items), restore_args=tree.unflatten(restore_args))
        restored = checkpointer.restore(path / "state", args=args)
        integrity.check(jax.tree.map(lambda x: None if x is ocp.PLACEHOLDER else x, restored), record.digests)


def _parts(sizes: Sequence[int]) -> Iterator[range]:
    """Cuts leaves of these sizes in bytes, in order, into parts of at most `_PART` bytes or of one larger leaf."""
    begin, total = 0, 0
    for i, size in enumerate(sizes):
        if i > begin and total + size > _PART:
            yield range(begin, i)
            begin, total = i, 0
        total += size
    yield range(begin, len(sizes))


def check_fits(target: Tree, record: integrity.Record, path: AnyPath) -> None:
    """Refuses an undamaged checkpoint whose arrays have other names or shapes than the target.

    Raises:
      UserError: some leaves of the target are missing there, or have another type or shape.
    """
    misfits = integrity.misfits(target, record.digests) if record.digests is not None else []
    if misfits:
        raise UserError(
            f"checkpoint {path} does not fit: {len(misfits)} of our arrays have another name or shape there, for "
            f"example {misfits[0]}; it was made by another version of this program or of its libraries, or with "
            "another network of yours: open it with that one"
        )


def newest_whole(
    folder: AnyPath, read: Callable[[int], Content], *, check: Callable[[int], object] | None = None
) -> tuple[int, Content] | tuple[None, None]:
    """Returns the newest step that can be read and the result of `read(step)`; (None, None) without checkpoints.

    If there are several processes, the first one searches alone, since each process reads only a part of the state
    and the damage may be in another part.

    Args:
      folder: the folder of the checkpoints.
      read: function of a step, which all processes call.
      check: function of a step, which the first of several processes calls alone to search; None checks the whole
        checkpoint.

    Raises:
      UserError: a checkpoint cannot be read although it may be undamaged, or all are damaged.
    """
    if jax.process_count() == 1:
        return _search(folder, read)
    check = check or (lambda step: _check_alone(checkpoint_path(folder, step)))
    step = _search(folder, check)[0] if is_first() else None
    step = int(agreed(np.array(-1 if step is None else step)))
    if step < 0:
        return None, None
    path = checkpoint_path(folder, step)
    try:
        return step, read(step)
    except Exception as error:
        if lost_connection(error):
            raise
        _raise_unless_damaged(path, error)
        raise UserError(
            f"process {jax.process_index()} cannot read checkpoint {path}, which the first process could "
            f"read ({reason(error)}); it is left unchanged: make sure that all processes share that folder, and start "
            "again"
        ) from error


def _search(folder: AnyPath, read: Callable[[int], Content]) -> tuple[int, Content] | tuple[None, None]:
    """`newest_whole` for one process."""
    damaged = []
    while steps := [step for step in saved_steps(folder) if step not in damaged]:
        path = checkpoint_path(folder, steps[0])
        try:
            return steps[0], read(steps[0])
        except Exception as error:
            _raise_unless_damaged(path, error)
            damaged.append(steps[0])
            if not _present(path):  # deleted in the meantime by the process that trains
                continue
            print(
                f"warning: checkpoint {path} is damaged ({reason(error)}); the previous checkpoint is used",
                file=sys.stderr,
                flush=True,
            )
    if damaged:
        raise UserError(f"every checkpoint in {folder} is damaged; move the folder away to start from the beginning")
    return None, None


def _raise_unless_damaged(path: AnyPath, error: Exception) -> None:
    """Raises the error that ended the reading of a checkpoint unless its files are damaged or gone."""
    if isinstance(error, UserError):
        raise error
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise error  # from the devices or from another process
    obstacle = integrity.obstacle(path, error) if _present(path) else None
    if obstacle and did_not_answer(path, error):
        raise TransientError(
            f"cannot read checkpoint {path} now ({obstacle}); it is left unchanged: start the same command again"
        ) from error
    if obstacle:
        raise UserError(
            f"cannot read checkpoint {path} ({obstacle}); it is left unchanged: fix the cause, and start again"
        ) from error


def _present(path: AnyPath) -> bool:
    """Whether a checkpoint is still one: something of it is on the disk, or its bucket still lists it, as it may."""
    if isinstance(path, Path):
        return os.path.lexists(path)
    folder = path.parent if path.parent.name == "checkpoints" else path.parent.parent
    try:
        return path in checkpoint_paths(folder).values()
    except UserError:
        return True


def reason(error: BaseException) -> str:
    """Returns the first line of the original cause; of a long message of TensorStore only the end, which says most."""
    *_, root = causes(error)
    line = first_line(root)
    return line if len(line) <= 160 else re.split(r": (?=[A-Z])", line)[-1]

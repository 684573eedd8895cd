"""Removes the empty folders of a new run that ended with an error before its first step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ddpm_jax.errors import BusyError, causes, reading
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.runtime.lease import LostError
from ddpm_jax.training.heartbeat import status_file


@contextlib.contextmanager
def removed_if_unused(workdir: AnyPath) -> Iterator[None]:
    """Removes the folders that the body makes of a run, if it raises before there is a checkpoint or a line of the log.

    Nothing is removed if another process is training there: the folders are that one's.

    Only empty folders are removed, and TensorBoard's file and the status of a run without steps. A bucket has no
    folders, and nothing but the status is written there before the first step.

    Args:
      workdir: the run's directory, which may exist.

    Raises:
      UserError: it cannot be read.
    """
    status = status_file(workdir)
    with reading(status):
        had_status = storage.exists(status)
    checkpoints, board = workdir / "checkpoints", workdir / "tensorboard"
    on_disk = [folder for folder in (board, checkpoints, workdir, *workdir.parents) if isinstance(folder, Path)]
    made = [folder for folder in on_disk if not folder.exists()]
    try:
        yield
    except BaseException as error:
        if any(isinstance(cause, BusyError | LostError) for cause in causes(error)):
            raise
        with contextlib.suppress(OSError):
            if is_first() and not _is_used(workdir):
                for events in Path(board).glob("events*") if board in made else ():
                    events.unlink()
                if not had_status:
                    storage.remove(status)
                for folder in made:
                    if folder.exists():
                        folder.rmdir()
        raise


def _is_used(workdir: AnyPath) -> bool:
    """Whether a run has a checkpoint or a line of the log."""
    return any(storage.names(workdir / name) for name in ("checkpoints", "log")) or storage.exists(
        workdir / "log.jsonl"
    )

"""Removes the empty folders of a new run that ended with an error before its first step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ddpm_jax.runtime import storage
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.runtime.storage import AnyPath
from ddpm_jax.training.heartbeat import status_file
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import saved_steps


@contextlib.contextmanager
def removed_if_unused(workdir: AnyPath) -> Iterator[None]:
    """Removes the folders that the body makes of a run, if it raises before there is a checkpoint or a line of the log.

    Only empty folders are removed, and TensorBoard's file and the status of a run without steps. A bucket has no
    folders; there only the status is removed, and the lease goes by itself.

    Args:
      workdir: the run's directory, which may exist.
    """
    status = status_file(workdir)
    had_status = storage.exists(status)
    if not isinstance(workdir, Path):
        try:
            yield
        except BaseException:
            if is_first() and not had_status and not read_log(workdir) and not saved_steps(workdir / "checkpoints"):
                with contextlib.suppress(OSError):
                    storage.remove(status)
            raise
        return
    checkpoints, board = workdir / "checkpoints", workdir / "tensorboard"
    made = [folder for folder in (board, checkpoints, workdir, *workdir.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        unused = not (workdir / "log.jsonl").exists() and not (checkpoints.is_dir() and any(checkpoints.iterdir()))
        if is_first() and unused:
            with contextlib.suppress(OSError):
                for events in board.glob("events*") if board in made else ():
                    events.unlink()
                if not had_status:
                    status.unlink(missing_ok=True)
                for folder in made:
                    if folder.exists():
                        folder.rmdir()
        raise

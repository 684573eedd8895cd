"""Removes the empty folders of a new run that ended with an error before its first step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ddpm_jax.runtime.devices import is_first
from ddpm_jax.runtime.storage import AnyPath


@contextlib.contextmanager
def removed_if_unused(workdir: AnyPath) -> Iterator[None]:
    """Removes the folders that the body makes of a run, if it raises before there is a checkpoint or a line of the log.

    Only empty folders are removed, and TensorBoard's file of a run without steps. A bucket has no folders, and nothing
    is written there before the first step but the lease, which goes by itself.

    Args:
      workdir: the run's directory, which may exist.
    """
    if not isinstance(workdir, Path):
        yield
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
                for folder in made:
                    if folder.exists():
                        folder.rmdir()
        raise

"""A tiny run whose storage fails: it is started until it ends, and what it has left is compared with what it should."""

import contextlib
import functools
import gc
import io
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.tiny import tiny_config, untimed

from ddpm_jax import factory
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import preparation, train
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.training import integrity
from ddpm_jax.training.listing import checkpoint_path
from ddpm_jax.training.log import LogLine
from ddpm_jax.training.restoring import saved_steps, stored_record

REMEDY = re.compile(
    r"[;:,] (then )?(fix|free|choose|wait|start|make|check|give|run|move|open|train|log in|look|the same command)\b"
)


class Ended(NamedTuple):
    """What a run has left: the digests of all arrays of its checkpoints by step, and its log without the speeds."""

    checkpoints: dict[int, Any]
    log: list[LogLine]


def config_of(**changes: Any) -> ConfigDict:
    """The run of all schedules: six steps with a checkpoint after every second one, of which two are kept."""
    return tiny_config(diffusion__num_timesteps=4, train__num_steps=6, **changes)


def compiled_once() -> None:
    """Lets all runs of this process, which have one configuration, take their steps with one compiled function."""
    for module, name in ((preparation, "compiled_step"), (factory, "state_init")):
        setattr(module, name, first_result(getattr(module, name)))


def first_result(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns what the first call returned, whatever its arguments are."""
    results: list[Any] = []

    @functools.wraps(function)
    def remembered(*args: Any, **options: Any) -> Any:
        if not results:
            results.append(function(*args, **options))
        return results[0]

    return remembered


def ended(workdir: str) -> Ended:
    """What a run has left; raises if a checkpoint does not hold what was saved."""
    folder, found = any_path(workdir) / "checkpoints", {}
    for step in saved_steps(folder):
        with storage.local_folder(checkpoint_path(folder, step)) as path:  # one request for each object
            record = stored_record(path)
            integrity.check(_arrays(path), record.digests)
        found[step] = record.digests
    return Ended(found, untimed(workdir))


def _arrays(path: Path) -> Any:
    """All arrays of a checkpoint, as they lie there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax recommends to say on which devices
        return ocp.PyTreeCheckpointer().restore(path / "state")


def started(workdir: str) -> tuple[list[int], BaseException | None, str]:
    """Starts a run once; returns the steps that it took, the error that ended it, and what was printed to stderr.

    A signal that stops the run ends this program.
    """
    steps, ended_by = list[int](), None
    with tempfile.TemporaryFile() as stderr:
        with contextlib.redirect_stdout(io.StringIO()), _printing_to(stderr):
            gc.collect()  # what the start before has left, which may print something when it is removed
            try:
                done = train.start(config_of(), workdir, hooks=[lambda step, state, metrics: steps.append(step)])
                if done.stopped is not None:
                    raise KeyboardInterrupt
            except Exception as error:
                ended_by = error
        stderr.seek(0)
        return steps, ended_by, stderr.read().decode(errors="replace")


@contextlib.contextmanager
def _printing_to(file: IO[bytes]) -> Iterator[None]:
    """Has a file get what this process prints to stderr, also by its loggers and by libraries in C++."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def is_helpful(error: BaseException) -> bool:
    """Whether an error is one line with a remedy."""
    text = str(error)
    return isinstance(error, UserError) and "\n" not in text and len(text) < 500 and bool(REMEDY.search(text))


def differences(whole: Ended, every: Ended, found: Ended, *, unsaved: Collection[int]) -> tuple[list[str], list[str]]:
    """What a run has lost and what it has changed.

    Args:
      whole: the run without faults.
      every: the same with a checkpoint of every step, since a run saves more of them when errors end it.
      found: the run with faults.
      unsaved: the steps whose checkpoint the run reported as not saved; a later checkpoint replaces such a one.
    """
    missing = whole.checkpoints.keys() - found.checkpoints.keys()
    newest = max(found.checkpoints, default=0)
    lost = [f"checkpoint {step}" for step in sorted(missing) if step not in unsaved or step > newest]
    changed = [f"checkpoint {step}" for step in found.checkpoints if found.checkpoints[step] != every.checkpoints[step]]
    logged = {line["step"]: line for line in found.log}
    lost += [f"line {line['step']}" for line in whole.log if line["step"] not in logged]
    changed += [f"line {line['step']}" for line in whole.log if logged.get(line["step"], line) != line]
    if len(found.log) != len(logged):
        changed.append("lines that are there twice")
    return lost, changed

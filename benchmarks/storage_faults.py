"""Counts what is lost or changed when the storage of a run fails: whole tiny runs in a bucket, with seeded faults.

  python benchmarks/storage_faults.py
  python benchmarks/storage_faults.py --schedules=1000 --out=/tmp/faults.jsonl

Each schedule trains a run of eight steps in a bucket of its own (an emulator on the loopback address) while some of its
requests fail: refused by the service or for want of a permission, delayed, cut off in the middle of what is written or
read, not answered although they were done, or answered with an old listing. The run is started again after each error,
in the same process, until it ends. Then its checkpoints (parameters, averages, optimiser) and its log are compared bit
for bit with those of a run on a disk. The result of each schedule is a line of `--out`; a command that is interrupted
and given again goes on after the last one.
"""

import contextlib
import functools
import io
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _root  # noqa: F401
import numpy as np
import orbax.checkpoint as ocp
from absl import flags

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from _faulty_bucket import Control, drawn, faulty_bucket
from ml_collections import ConfigDict
from support.tiny import tiny_config

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError, is_transient
from ddpm_jax.jobs import preparation, train
from ddpm_jax.runtime import lease, storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.training import integrity
from ddpm_jax.training.listing import checkpoint_path
from ddpm_jax.training.log import LogLine, read_log
from ddpm_jax.training.restoring import saved_steps, stored_record

SCHEDULES = flags.DEFINE_integer("schedules", 200, "The number of schedules, whose seeds are 0, 1, ...", lower_bound=1)
OUT = flags.DEFINE_string("out", "runs/storage_faults.jsonl", "The file of the results, one line for each schedule.")

MOST_STARTS = 60
REMEDY = re.compile(
    r"[;:,] (then )?(fix|free|choose|wait|start|make|check|give|run|move|open|train|log in|look|the same command)\b"
)
BEAT = 0.3
"""Seconds between two renewals of the lease, instead of ten."""


class Ended(NamedTuple):
    """What a run has left: the digests of all arrays of its checkpoints by step, and its log without the speeds."""

    checkpoints: dict[int, Any]
    log: list[LogLine]


class Result(NamedTuple):
    """What became of one schedule, as a line of the file.

    Attributes:
      seed: of the schedule.
      faults: how many requests went wrong, by kind.
      restarts: how often the run was started again.
      lost: what of the run is gone, or was computed again although it was saved, in words.
      changed: what of it has other values.
      unhelpful: errors that are not one line with a remedy.
      errors: all errors that ended a start.
      needed_a_person: how many of these do not say that they may pass.
      seconds: that it took.
    """

    seed: int
    faults: dict[str, int]
    restarts: int
    lost: list[str]
    changed: list[str]
    unhelpful: list[str]
    errors: list[str]
    needed_a_person: int
    seconds: float


def config_of(**changes: Any) -> ConfigDict:
    """The run of all schedules: eight steps with a checkpoint after every second one."""
    return tiny_config(diffusion__num_timesteps=4, **changes)


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
        path = checkpoint_path(folder, step)
        record = stored_record(path)
        integrity.check(_arrays(path), record.digests)
        found[step] = record.digests
    lines = [
        {name: line[name] for name in line if not name.endswith("per_s") and not name.startswith("seconds_")}
        for line in read_log(workdir)
    ]
    return Ended(found, lines)


def _arrays(path: AnyPath) -> Any:
    """All arrays of a checkpoint, as they lie there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax recommends to say on which devices
        return ocp.PyTreeCheckpointer().restore(path / "state")


def started(workdir: str) -> tuple[list[int], BaseException | None, str]:
    """Starts a run once; returns the steps that it took, the error that ended it, and what it printed to stderr."""
    steps: list[int] = []
    stderr = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        try:
            train.start(config_of(), workdir, hooks=[lambda step, state, metrics: steps.append(step)])
        except Exception as error:
            return steps, error, stderr.getvalue()
    return steps, None, stderr.getvalue()


def is_helpful(error: BaseException) -> bool:
    """Whether an error is one line with a remedy."""
    text = str(error)
    return isinstance(error, UserError) and "\n" not in text and len(text) < 500 and bool(REMEDY.search(text))


def differences(whole: Ended, every: Ended, found: Ended) -> tuple[list[str], list[str]]:
    """What a run has lost and what it has changed.

    Args:
      whole: the run without faults.
      every: the same with a checkpoint of every step, since a run saves more of them when errors end it.
      found: the run with faults.
    """
    lost = [f"checkpoint {step}" for step in whole.checkpoints if step not in found.checkpoints]
    changed = [f"checkpoint {step}" for step in found.checkpoints if found.checkpoints[step] != every.checkpoints[step]]
    logged = {line["step"]: line for line in found.log}
    lost += [f"line {line['step']}" for line in whole.log if line["step"] not in logged]
    changed += [f"line {line['step']}" for line in whole.log if logged.get(line["step"], line) != line]
    if len(found.log) != len(logged):
        changed.append("lines that are there twice")
    return lost, changed


def outcome(seed: int, workdir: str, faults: Control, *, requests: int, whole: Ended, every: Ended) -> Result:
    """Trains the run of one schedule until it ends."""
    begin, errors, lost, unhelpful, persons = time.monotonic(), list[str](), list[str](), list[str](), 0
    faults.plan(drawn(np.random.default_rng(seed), requests))
    for start in range(MOST_STARTS):
        with faults.paused():
            newest = next(iter(saved_steps(any_path(workdir) / "checkpoints")), 0)
        steps, error, stderr = started(workdir)
        if steps and steps[0] <= newest:
            lost.append(f"start {start} took step {steps[0]} again, of which checkpoint {newest} was left")
        if "Traceback" in stderr:
            unhelpful.append(f"printed: {stderr}")
        if error is None:
            break
        errors.append(f"{type(error).__name__}: {error}")
        persons += not is_transient(error)
        if not is_helpful(error):
            unhelpful.append(errors[-1])
    else:
        lost.append(f"the run did not end in {MOST_STARTS} starts")
    with faults.paused():
        try:
            missing, changed = differences(whole, every, ended(workdir))
        except Exception as error:
            missing, changed = [], [f"cannot be read: {type(error).__name__}: {error}"]
        storage.remove_tree(any_path(workdir))
    seconds = round(time.monotonic() - begin, 2)
    return Result(seed, dict(faults.came()), len(errors), lost + missing, changed, unhelpful, errors, persons, seconds)


def summary(results: list[Result]) -> str:
    """The counts over all schedules."""
    came: Counter[str] = sum((Counter(result.faults) for result in results), Counter())
    lines = [
        f"{len(results)} schedules, {sum(came.values()):,} faulty requests, "
        f"{sum(result.restarts for result in results):,} restarts",
        "  " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(came.items())),
        f"results lost: {sum(bool(result.lost) for result in results)}",
        f"results changed: {sum(bool(result.changed) for result in results)}",
        f"errors that were not one line with a remedy: {sum(len(result.unhelpful) for result in results)}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the schedules that the file of results lacks, and prints the counts over all of them."""
    out = Path(OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    if out.exists():
        done = {line["seed"]: Result(**line) for line in map(json.loads, out.read_text().splitlines())}
    lease.BEAT = BEAT
    compiled_once()
    with tempfile.TemporaryDirectory() as folder, faulty_bucket() as (bucket, faults), out.open("a") as file:
        runs = {"whole": config_of(), "every": config_of(checkpoint__every=1, checkpoint__keep=100)}
        with contextlib.redirect_stdout(io.StringIO()):
            for name, config in runs.items():
                train.train(config, os.path.join(folder, name))
        whole, every = (ended(os.path.join(folder, name)) for name in runs)
        faults.plan([])
        assert started(f"{bucket}/whole")[1] is None, "a run without faults ends"
        requests = faults.requests()
        with faults.paused():
            assert ended(f"{bucket}/whole") == whole, "a run in a bucket is that on a disk"
        print(f"{requests} requests of a run without faults", flush=True)
        for seed in (seed for seed in range(SCHEDULES.value) if seed not in done):
            result = outcome(seed, f"{bucket}/{seed}", faults, requests=requests, whole=whole, every=every)
            done[seed] = result
            file.write(json.dumps(result._asdict()) + "\n")
            file.flush()
            wrong = [*result.lost, *result.changed, *result.unhelpful]
            print(f"{seed}: {sum(result.faults.values())} faults, {result.restarts} restarts, {result.seconds} s"
                  f"{''.join(f'{chr(10)}  {text}' for text in wrong)}", flush=True)  # fmt: skip
    print(summary([done[seed] for seed in range(SCHEDULES.value)]))


if __name__ == "__main__":
    cli.run(main, module=__name__)

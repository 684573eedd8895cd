"""Counts what is lost or changed when the storage of a run fails: whole tiny runs in a bucket, with seeded faults.

  python benchmarks/storage_faults.py
  python benchmarks/storage_faults.py --schedules=1000 --out=/tmp/faults.jsonl

Each schedule trains a run of six steps in a bucket of its own (an emulator on the loopback address) while some of its
requests fail: refused by the service or for want of a permission, delayed, cut off in the middle of what is written or
read, not answered although they were done, or answered with an old listing. The run is started again after each error,
in the same process, until it ends. Then its checkpoints (parameters, averages, optimiser) and its log are compared bit
for bit with those of a run on a disk. The result of each schedule is a line of `--out`; a command that is interrupted
and given again goes on after the last one.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401
import numpy as np
from _faulty_bucket import Control, drawn, faulty_bucket
from _faulty_runs import Ended, compiled_once, config_of, differences, ended, is_helpful, started
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import is_transient
from ddpm_jax.jobs import train
from ddpm_jax.runtime import lease, storage
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.training.restoring import saved_steps

SCHEDULES = flags.DEFINE_integer("schedules", 200, "The number of schedules, whose seeds are 0, 1, ...", lower_bound=1)
OUT = flags.DEFINE_string("out", "runs/storage_faults.jsonl", "The file of the results, one line for each schedule.")

MOST_STARTS = 60
BEAT = 0.3
"""Seconds between two renewals of the lease, instead of ten."""


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


def outcome(seed: int, workdir: str, faults: Control, *, requests: int, whole: Ended, every: Ended) -> Result:
    """Trains the run of one schedule until it ends."""
    begin, errors, lost, unhelpful, persons = time.monotonic(), list[str](), list[str](), list[str](), 0
    unsaved, folder = set[int](), any_path(workdir) / "checkpoints"
    faults.plan(drawn(np.random.default_rng(seed), requests))
    for start in range(MOST_STARTS):
        with faults.paused():
            newest = next(iter(saved_steps(folder)), 0)
        steps, error, stderr = started(workdir)
        if steps and steps[0] <= newest:
            lost.append(f"start {start} took step {steps[0]} again, of which checkpoint {newest} was left")
        if "Traceback" in stderr or "Exception ignored" in stderr:
            unhelpful.append(f"printed: {stderr}")
        unsaved -= set(steps)
        if error is None:
            break
        if "cannot save a checkpoint" in f"{error} {stderr}":
            with faults.paused():
                unsaved |= set(steps) - set(saved_steps(folder))
        errors.append(f"{type(error).__name__}: {error}")
        persons += not is_transient(error)
        if not is_helpful(error):
            unhelpful.append(errors[-1])
    else:
        lost.append(f"the run did not end in {MOST_STARTS} starts")
    with faults.paused():
        try:
            missing, changed = differences(whole, every, ended(workdir), unsaved=unsaved)
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
    results = [done[seed] for seed in range(SCHEDULES.value)]
    print(summary(results))
    sys.exit(any(result.lost or result.changed or result.unhelpful for result in results))


if __name__ == "__main__":
    cli.run(main, module=__name__)

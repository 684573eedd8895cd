"""Measures whether a training of many steps grows: its memory, open files and threads, while its status is polled.

  python benchmarks/long_run.py
  python benchmarks/long_run.py --bucket --steps=2000      in a bucket, emulated on the loopback address

A tiny network trains on a folder of generated images, with two data workers, in processes of its own; checkpoints,
previews and the log are written as in any run. Meanwhile this process asks twice a second for the status of the run, as
a monitor does. The table has the memory, the open files and the threads of the trainer, of its workers together, and of
the monitor: of the memory the resident set (RSS), and what of it is their own, since the system drops pages of files as
it likes. The last lines are about what follows the first fifth of the steps: the slope of their own memory over the
steps, and the median number of open files and of threads in the first half and in the second.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import _root  # noqa: F401
import numpy as np
from _small_runs import ROOT, SMALL
from absl import flags

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.bucket import emulated

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError
from ddpm_jax.jobs.status.reading import observe
from ddpm_jax.runtime.images import save_png
from ddpm_jax.runtime.paths import any_path

STEPS = flags.DEFINE_integer("steps", 20_000, "The number of steps.", lower_bound=100)
BUCKET = flags.DEFINE_boolean("bucket", False, "Whether the run lies in an emulated bucket instead of on the disk.")
IMAGES, POLL, ROWS, WARM = 256, 0.5, 20, 0.2  # images, seconds, rows of the table, share of the steps
MIB = 2**20


class Usage(NamedTuple):
    """What some processes use together.

    Attributes:
      resident: the sum of their resident sets, in bytes.
      own: what of it belongs to no file.
      files: the number of open files.
      threads: the number of threads.
    """

    resident: int
    own: int
    files: int
    threads: int


class Sample(NamedTuple):
    """What all take part in at one time: the number of steps, and the usage of trainer, workers and monitor."""

    step: int
    trainer: Usage
    workers: Usage
    monitor: Usage


def usage(pids: Sequence[int]) -> Usage:
    """What these processes use together; one that has ended uses nothing."""
    total = np.zeros(4, int)
    for pid in pids:
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            memory = (1024 * int(status.get(name, "0").split()[0]) for name in ("VmRSS", "RssAnon"))  # 0 at its end
            total += [*memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])]
    return Usage(*map(int, total))


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:  # which grows
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def start(workdir: str, images: Path, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts the training program, whose errors are written to a file."""
    config: dict[str, Any] = {
        **SMALL,
        "data.source": "folder",
        "data.path": images,
        "data.num_workers": 2,
        "train.num_steps": STEPS.value,
        "checkpoint.every": 200,
        "log.every": 10,
        "log.preview_every": 2000,
        "log.preview_steps": 5,
    }
    command = [sys.executable, "train.py", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in config.items()]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)


def generated(folder: Path) -> Path:
    """Makes images of noise, 8 x 8 in grey, in a folder; returns it."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        save_png(folder / f"{i:03d}.png", rng.integers(0, 256, (8, 8, 1), np.uint8))
    return folder


def samples(workdir: str, process: subprocess.Popen[bytes]) -> Iterator[Sample]:
    """Asks for the status of a run until its process ends; yields what all use at each time while it trains."""
    while process.poll() is None:
        time.sleep(POLL)
        status = None
        with contextlib.suppress(UserError):  # the run does not exist yet
            status = observe(any_path(workdir), now=time.time()).status
        if status and status.state == "training" and status.step:
            yield Sample(status.step, usage([process.pid]), usage(below(process.pid)), usage([os.getpid()]))


def verdicts(taken: Sequence[Sample]) -> list[str]:
    """What the samples after the warm-up say of trainer, workers and monitor, a line for each."""
    warm = [sample for sample in taken if sample.step >= WARM * STEPS.value]
    thousands, half, lines = [sample.step / 1000 for sample in warm], len(warm) // 2, []
    for name in Sample._fields[1:]:
        uses = np.array([getattr(sample, name) for sample in warm])
        slope = np.polyfit(thousands, uses[:, 1] / MIB, 1)[0]
        first, second = (np.median(part, axis=0) for part in (uses[:half], uses[half:]))
        lines.append(f"{name}: {slope:+.3f} MiB per 1,000 steps; files {first[2]:.0f}, then {second[2]:.0f}; "
                     f"threads {first[3]:.0f}, then {second[3]:.0f}")  # fmt: skip
    return lines


def main() -> None:
    """Prints the table and what it says."""
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        place = opened.enter_context(emulated()) if BUCKET.value else folder
        images, workdir, taken = generated(Path(folder) / "images"), f"{place}/run", list[Sample]()
        stderr = opened.enter_context(Path(folder, "stderr").open("w+b"))
        begin, process = time.monotonic(), start(workdir, images, stderr)
        opened.callback(process.kill)
        print("    step", *(f"  {name + ': RSS':>12}, own MiB, files, threads" for name in Sample._fields[1:]))
        for sample in samples(workdir, process):
            taken.append(sample)
            if len(taken) == 1 or sample.step * ROWS // STEPS.value > taken[-2].step * ROWS // STEPS.value:
                cells = (f"{use.resident / MIB:15.1f} {use.own / MIB:8.1f} {use.files:6} {use.threads:8}"
                         for use in sample[1:])  # fmt: skip
                print(f"{sample.step:8,}{''.join(cells)}", flush=True)
        if process.returncode:
            stderr.seek(0)
            sys.exit(f"{stderr.read().decode(errors='replace')}\nthe training has ended with {process.returncode}")
        print(f"{STEPS.value:,} steps in {time.monotonic() - begin:.0f} s, the status was read {len(taken):,} times")
        print(*verdicts(taken), sep="\n")


if __name__ == "__main__":
    cli.run(main, module=__name__, uses_devices=False)

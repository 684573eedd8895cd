"""Tests that a run that is killed at random moments and resumed equals an uninterrupted run bit for bit, on the CPU.

  python benchmarks/kill_and_resume.py
  python benchmarks/kill_and_resume.py --kills=8 --seed=1 --folder=/tmp/kills

In each of 16 settings (1 or 8 virtual devices in each process, 0 or 2 data workers, 1 or 2 processes, a disk or a
bucket of an emulator on the loopback address) a small run of the digits is killed with SIGKILL, `--kills` times after
the run has logged a random number of further steps or at a random moment of its start, and started again until it is
finished. Of two processes one is killed first, and the other up to a second later. Then the parameters, their average,
the optimiser's state and the log are compared with those of an uninterrupted run on a disk with as many devices and
processes. The same command continues an interrupted benchmark with the next setting.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401
import numpy as np
from _small_runs import ROOT, SMALL, record, same
from absl import flags

sys.path.append(str(ROOT / "tests"))
from support.bucket import emulated

from ddpm_jax.commands import cli, endings
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.training.log import read_log

KILLS = flags.DEFINE_integer("kills", 4, "The number of kills in each setting.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "The seed of the moments.")
FOLDER = flags.DEFINE_string("folder", "runs/kill_and_resume", "Where the runs and the results are.")
MOST_STEPS, MOST_SECONDS = 120, 12  # between the start of a run and its kill


class Setting(NamedTuple):
    """How a run is trained.

    Attributes:
      devices: virtual devices of each process.
      workers: processes that read ahead, for each process.
      processes: processes that train together.
      place: "disk" or "bucket".
    """

    devices: int
    workers: int
    processes: int
    place: str

    def __str__(self) -> str:
        """The setting in words."""
        return f"{self.devices} devices, {self.workers} workers, {self.processes} processes, {self.place}"


SETTINGS = [Setting(*values) for values in itertools.product((1, 8), (0, 2), (1, 2), ("disk", "bucket"))]


def start(workdir: str, setting: Setting) -> list[subprocess.Popen[bytes]]:
    """Starts the processes of a run."""
    values = {**SMALL, "checkpoint.every": 10, "data.num_workers": setting.workers}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        together = [f"--coordinator=localhost:{free.getsockname()[1]}", f"--num_processes={setting.processes}"]
    command = [sys.executable, "train.py", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    commands = [[*command, *together, f"--process_id={i}"] for i in range(setting.processes)]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={setting.devices}",
        "JAX_COMPILATION_CACHE_DIR": str(Path(FOLDER.value, "compiled")),
    }
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return [
        subprocess.Popen(one, cwd=ROOT, env=environment, **options)
        for one in (commands if setting.processes > 1 else [command])
    ]


def finish(workdir: str, setting: Setting) -> None:
    """Trains a run until it is finished, and ends this program if it fails."""
    while True:
        processes = start(workdir, setting)
        errors = [process.communicate()[1].decode() for process in processes]
        codes = {process.returncode for process in processes}
        if codes == {endings.DONE}:
            return
        if endings.START_AGAIN not in codes:
            sys.exit(f"{setting}: ended with {codes}\n{''.join(errors)}")


def kill(workdir: str, setting: Setting, rng: np.random.Generator) -> str:
    """Starts a run and kills it; returns what happened in words."""
    before, processes = last_step(workdir), start(workdir, setting)
    more, moment, wait = int(rng.integers(MOST_STEPS)), rng.uniform(0, MOST_SECONDS), rng.uniform(0, 1)
    if rng.random() < 0.25:
        time.sleep(moment)
    else:
        deadline = time.monotonic() + 300
        while last_step(workdir) < before + more and time.monotonic() < deadline and processes[0].poll() is None:
            time.sleep(0.05)
        time.sleep(wait / 4)
    for process in rng.permutation(np.array(processes, object)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(wait if setting.processes > 1 else 0)
    for process in processes:
        process.communicate()
    return f"started at step {before}, killed at {last_step(workdir)}"


def last_step(workdir: str) -> int:
    """The last step of the log, 0 without one."""
    return max((line["step"] for line in read_log(any_path(workdir))), default=0)


def main() -> None:
    """Prints a line for each kill and each setting."""
    with emulated() as bucket:  # one for all, since the libraries ask once where it is
        _test_all(bucket)


def _test_all(bucket: str) -> None:
    """Tests the settings that have no result yet."""
    folder = Path(FOLDER.value).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"results_{SEED.value}_{KILLS.value}.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for number, setting in list(enumerate(SETTINGS))[len(done) :]:
        rng = np.random.default_rng((SEED.value, number))
        whole = folder / f"whole_{setting.devices}_{setting.processes}"
        finish(str(whole), setting._replace(workers=0, place="disk"))
        killed = f"{folder if setting.place == 'disk' else bucket}/killed_{number}"
        storage.remove_tree(any_path(killed))  # of an interrupted benchmark
        for _ in range(KILLS.value):
            print(f"  {kill(killed, setting, rng)}", flush=True)
        finish(killed, setting)
        equal = same(record(whole), record(any_path(killed)))
        done.append({"setting": str(setting), "kills": KILLS.value, "equal": equal})
        with results.open("a") as file:
            print(json.dumps(done[-1]), file=file)
        print(f"{setting}: {'equal bit for bit' if equal else 'DIFFERENT'}", flush=True)
    num_equal = sum(result["equal"] for result in done)
    print(f"{sum(result['kills'] for result in done)} kills, {num_equal} of {len(done)} settings equal bit for bit")
    sys.exit(num_equal < len(done))


if __name__ == "__main__":
    cli.run(main, module=__name__)

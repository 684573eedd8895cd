"""Tests that a run that is killed at random moments and resumed equals an uninterrupted run bit for bit, on the CPU.

  python benchmarks/kill_and_resume.py
  python benchmarks/kill_and_resume.py --kills=40 --seed=1

For 1 and for 8 virtual devices, with 0 and with 2 data workers: a small run of the digits is killed with SIGKILL at
random moments (the times after its start are drawn from the seed and printed) and started again until it is finished.
Then its parameters, their average, its optimiser state and its log are compared with those of an uninterrupted run.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _root  # noqa: F401
import numpy as np
from _small_runs import ROOT, SMALL, record, same
from absl import flags

from ddpm_jax.commands import cli

KILLS = flags.DEFINE_integer(
    "kills", 10, "The number of kills in total, divided among the four settings.", lower_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "The seed of the moments.")


def start(workdir: Path, devices: int, workers: int, cache: str) -> subprocess.Popen[bytes]:
    """Starts the training program with these numbers of virtual devices and of data workers.

    Args:
      workdir: directory of the run.
      devices: virtual devices.
      workers: processes that read ahead.
      cache: folder of compiled programs.
    """
    flags_of_run = [f"--config.{key}={value}" for key, value in {**SMALL, "data.num_workers": workers}.items()]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": cache,
    }
    command = [sys.executable, "train.py", f"--workdir={workdir}", *flags_of_run]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **options)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for a run that is not killed, and ends this program if the run fails."""
    error = process.communicate()[1]
    if process.returncode:
        sys.exit(error.decode())


def main() -> None:
    """Prints a line for each kill and each setting."""
    rng, settings = np.random.default_rng(SEED.value), [(1, 0), (8, 0), (1, 2), (8, 2)]
    moments = rng.uniform(4, 14, KILLS.value)
    print(f"seed {SEED.value}: {KILLS.value} kills", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, (devices, workers) in enumerate(settings):
            whole, killed = Path(folder) / f"whole{number}", Path(folder) / f"killed{number}"
            finish(start(whole, devices, workers, f"{folder}/compiled"))
            for moment in moments[number :: len(settings)]:
                process = start(killed, devices, workers, f"{folder}/compiled")
                time.sleep(moment)
                within = [p.name for p in (killed / "checkpoints").glob("*tmp*")]
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                lines = (killed / "log.jsonl").read_text().count("\n") if (killed / "log.jsonl").exists() else 0
                saving = "during a save" if within else "between saves"
                print(f"  killed {moment:.2f} s after the start, {lines} steps logged, {saving}", flush=True)
            finish(start(killed, devices, workers, f"{folder}/compiled"))
            equal = same(record(whole), record(killed))
            print(f"{devices} devices, {workers} workers: {'equal bit for bit' if equal else 'DIFFERENT'}", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)

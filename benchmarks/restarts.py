"""Tests that a run of two processes, ended again and again under examples/loop.sh, equals another bit for bit.

  python benchmarks/restarts.py                                      kills one of the two each minute, for ten minutes
  python benchmarks/restarts.py --preempt --times=20 --seconds=30    sends SIGTERM to both, and SIGKILL 30 s later

The two processes communicate over the loopback address. Which one is killed is drawn from the seed. After a preemption
the newest checkpoint must be the last step of the log. In the end the run gets twenty more steps, and another one takes
all its steps without an end. The same command continues an interrupted benchmark.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _root  # noqa: F401
from _small_runs import ROOT, SMALL, record, same
from absl import flags

from ddpm_jax.commands import cli, endings
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import saved_steps

PREEMPT = flags.DEFINE_boolean("preempt", False, "Sends SIGTERM to both processes, instead of SIGKILL to one.")
TIMES = flags.DEFINE_integer("times", 10, "The number of kills or preemptions.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 60.0, "The time from a start of the loops, or an end, to the next end.")
GRACE = flags.DEFINE_float("grace", 30.0, "The time from SIGTERM to SIGKILL, in seconds.")
SEED = flags.DEFINE_integer("seed", 0, "The seed by which a process is chosen.")
FOLDER = flags.DEFINE_string("folder", None, "Where the runs are (default: runs/restarts_killed or _preempted).")
ENDLESS, MORE, PAUSE = 10**9, 20, 3  # steps, steps, seconds


class Loops:
    """Two loops, each of which starts one of the two processes of a run again until it is done.

    Args:
      workdir: directory of the run.
      num_steps: the number of its last step.
      cache: folder of compiled programs.
    """

    def __init__(self, workdir: Path, num_steps: int, cache: Path) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        config: dict[str, Any] = {**SMALL, "train.num_steps": num_steps, "checkpoint.every": 50}
        command = [str(ROOT / "examples" / "loop.sh"), sys.executable, "train.py", f"--workdir={workdir}"]
        command += [f"--config.{key}={value}" for key, value in config.items()]
        command += [f"--coordinator={address}", "--num_processes=2"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        environment |= {"PAUSE": str(PAUSE), "MOST": "1000", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        self._log = (workdir.parent / f"{workdir.name}.log").open("ab")
        options: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL, "stderr": self._log}
        self._loops = [subprocess.Popen([*command, f"--process_id={i}"], **options) for i in (0, 1)]

    def process(self, number: int) -> int:
        """The process that a loop runs; waits for one between two starts."""
        while True:
            shown = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
            for line in shown.stdout.splitlines():
                pid, parent, command = line.split(maxsplit=2)
                if int(parent) == self._loops[number].pid and "train.py" in command:
                    return int(pid)
            time.sleep(0.2)

    def stop(self) -> None:
        """Asks both processes to save their step and to end, and nothing to be started again."""
        for loop in self._loops:
            loop.terminate()
        self.wait(endings.START_AGAIN)

    def wait(self, code: int = endings.DONE) -> None:
        """Waits until both have ended with this code; another one ends this program."""
        codes = [loop.wait() for loop in self._loops]
        self._log.close()
        if codes != [code, code]:
            sys.exit(f"the loops ended with {codes} instead of {code}: see {self._log.name}")


def kill_one(loops: Loops, workdir: Path, number: int) -> str:
    """Sends SIGKILL to one process; returns what happened in words."""
    os.kill(loops.process(number), signal.SIGKILL)
    return f"process {number} killed at step {last_step(workdir)}"


def preempt_both(loops: Loops, workdir: Path, number: int) -> str:
    """Sends SIGTERM to both processes, and SIGKILL after the grace period; returns what happened in words."""
    pids, begin = [loops.process(i) for i in (0, 1)], time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    while running(pids) and time.monotonic() - begin < GRACE.value:
        time.sleep(0.05)
    seconds, late = time.monotonic() - begin, running(pids)
    for pid in late:
        os.kill(pid, signal.SIGKILL)
    logged, saved = last_step(workdir), max(saved_steps(workdir / "checkpoints"), default=0)
    lost = f"LOST {logged - saved} steps" if logged != saved else "nothing lost"
    return f"both ended {seconds:.1f} s after SIGTERM, step {logged}, {len(late)} killed: {lost}"


def running(pids: list[int]) -> list[int]:
    """Those of the processes that have not ended."""
    return [pid for pid in pids if subprocess.run(["kill", "-0", str(pid)], stderr=subprocess.DEVNULL).returncode == 0]


def last_step(workdir: Path) -> int:
    """The last step of the log."""
    return read_log(workdir)[-1]["step"] if (workdir / "log.jsonl").exists() else 0


def main() -> None:
    """Prints a line for each end, and whether the runs are equal."""
    name = "preempted" if PREEMPT.value else "killed"
    folder = Path(FOLDER.value or f"runs/restarts_{name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    ends, last = folder / "ends.txt", folder / "last_step.json"
    done = ends.read_text().splitlines() if ends.exists() else []
    if not last.exists():
        end, rng = preempt_both if PREEMPT.value else kill_one, random.Random(SEED.value)
        numbers = [rng.randrange(2) for _ in range(TIMES.value)]
        loops = Loops(folder / name, ENDLESS, folder / "compiled")
        for number in numbers[len(done) :]:
            time.sleep(SECONDS.value)
            line = end(loops, folder / name, number)
            with ends.open("a") as file:
                print(line, file=file)
            print(line, flush=True)
        time.sleep(SECONDS.value)
        loops.stop()
        last.write_text(json.dumps(last_step(folder / name) + MORE))
    num_steps = json.loads(last.read_text())
    for run in (name, "whole"):
        Loops(folder / run, num_steps, folder / "compiled").wait()
    equal = same(record(folder / name), record(folder / "whole"))
    print(f"{num_steps} steps, {TIMES.value} times {name}: {'equal bit for bit' if equal else 'DIFFERENT'}")
    sys.exit(not equal or "LOST" in ends.read_text())


if __name__ == "__main__":
    cli.run(main, module=__name__)

"""Tests that a measurement of samples that is killed at random moments gives the number of an uninterrupted one.

  python benchmarks/kill_and_measure.py --workdir=runs/digits

Draws images of a run and measures their Frechet distance of pixels, once without interruption and once killed with
SIGKILL at random moments (drawn from the seed, and printed) and started again, each in a copy of the run's directory.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _root  # noqa: F401
from absl import flags

from ddpm_jax.commands import cli

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The directory of the run to measure.")
KILLS = flags.DEFINE_integer("kills", 10, "The number of kills.", lower_bound=1)
NUM_IMAGES = flags.DEFINE_integer("num_images", 3000, "The number of samples.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 50, "The number of steps of the chain.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "The seed of the moments.")
ROOT = Path(__file__).parents[1]


def start(workdir: Path) -> subprocess.Popen[bytes]:
    """Starts the measurement of a run."""
    options = [f"--num_images={NUM_IMAGES.value}", f"--num_steps={NUM_STEPS.value}", "--batch_size=50"]
    command = [sys.executable, "evaluate.py", f"--workdir={workdir}", "--metrics=fd", "--features=pixels", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kept(workdir: Path) -> int:
    """The number of batches whose features are kept."""
    return len(list((workdir / "evaluation" / "features").glob("*.npy")))


def result(workdir: Path) -> dict[str, Any]:
    """The result of a finished measurement."""
    return json.loads((workdir / "evaluation" / "fd.json").read_text())


def killed(workdir: Path, rng: random.Random) -> dict[str, Any]:
    """The result of a measurement that is killed again and again, each time a few seconds after new work was kept."""
    for number in range(1, KILLS.value + 1):
        process, before, moment = start(workdir), kept(workdir), rng.uniform(0, 2)
        while process.poll() is None and kept(workdir) == before:
            try:
                process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                continue
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        how = "killed" if process.returncode == -signal.SIGKILL else f"ended with {process.returncode}"
        print(f"{number:>3} {how} {moment:.2f} s after new work was kept: {kept(workdir)} batches", flush=True)
    start(workdir).wait()
    return result(workdir)


def main() -> None:
    """Prints the moments and both numbers; exits with 1 if they differ."""
    with tempfile.TemporaryDirectory() as folder:
        once, often = Path(folder) / "once", Path(folder) / "often"
        for copy in (once, often):
            shutil.copytree(WORKDIR.value, copy, ignore=shutil.ignore_patterns("evaluation"))
        start(once).wait()
        numbers = result(once)["value"], killed(often, random.Random(SEED.value))["value"]
    print(f"Frechet distance of {NUM_IMAGES.value:,} images: uninterrupted {numbers[0]!r}, killed {numbers[1]!r}")
    if numbers[0] != numbers[1]:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, module=__name__)

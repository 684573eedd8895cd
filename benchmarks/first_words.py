"""Measures how soon a training speaks: its import, its first line, its first step, and the same from a second start.

  python benchmarks/first_words.py              the default experiment: 5 imports, 3 first starts and 3 second ones

Every import and every start is a process of its own. The import of ddpm_jax is measured after that of jax, flax.linen
and optax, which any program in JAX has. A first start has an empty folder of compiled programs; it is stopped after its
first step, and the second start is the same command again. What a start compiles is what it adds to that folder.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401
from absl import flags

from ddpm_jax.commands import cli

EXPERIMENT = flags.DEFINE_string("experiment", "digits", "The experiment to train.")
IMPORTS = flags.DEFINE_integer("imports", 5, "The number of imports, after one that is not counted.", lower_bound=1)
STARTS = flags.DEFINE_integer("starts", 3, "The number of first starts, each followed by a second one.", lower_bound=1)
ROOT = Path(__file__).parents[1]
IMPORT = """
import time
begin = time.perf_counter()
import jax, flax.linen, optax
between = time.perf_counter()
import ddpm_jax
print(between - begin, time.perf_counter() - between)
"""


class Start(NamedTuple):
    """A start of a training: seconds to its first line and to its first step, and the programs that it compiled."""

    first_line: float
    first_step: float
    compiled: int


def imports() -> tuple[float, float]:
    """The seconds that the import of jax, flax.linen and optax takes, and then that of ddpm_jax."""
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    of_others, of_ours = map(float, done.stdout.split())
    return of_others, of_ours


def started(folder: Path) -> Start:
    """Starts the run in a folder, from its checkpoint if it has one, and stops it after its first step."""
    compiled = folder / "compiled"
    command = [sys.executable, "train.py", f"--config={EXPERIMENT.value}", f"--workdir={folder / 'run'}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "text": True}
    before, begin, seconds = _programs(compiled), time.perf_counter(), []
    with subprocess.Popen([*command, "--config.log.every=1"], **options) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            seconds.append(time.perf_counter() - begin)
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    return Start(seconds[0], seconds[-1], _programs(compiled) - before)


def _programs(compiled: Path) -> int:
    """The number of compiled programs in a folder."""
    return len(list(compiled.glob("*-cache")))


def main() -> None:
    """Prints medians, each with the smallest and the largest value."""
    imports()
    of_others, of_ours = zip(*(imports() for _ in range(IMPORTS.value)), strict=True)
    print(f"import jax, flax.linen, optax   {_shown(of_others)}")
    print(f"import ddpm_jax after these     {_shown(of_ours)}", flush=True)
    pairs = []
    for _ in range(STARTS.value):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append((started(Path(folder)), started(Path(folder))))
    for name, starts in zip(("first start", "second start"), zip(*pairs, strict=True), strict=True):
        lines, steps, compiled = zip(*starts, strict=True)
        print(f"{name + ', first line':<32}{_shown(lines)}\n{name + ', first step':<32}{_shown(steps)}")
        print(f"{name + ', compiled':<32}{', '.join(map(str, compiled))} programs", flush=True)


def _shown(seconds: tuple[float, ...]) -> str:
    """The median of some seconds, with the smallest and the largest."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    cli.run(main, module=__name__)

"""Measures for how long training waits for its checkpoints, with their digests and the lease of a bucket.

  python benchmarks/saving_cost.py                the default digits configuration, on a disk and in a bucket
  python benchmarks/saving_cost.py --steps=500

The bucket is that of an emulator on the loopback address, which works on the same processors. Files are written while
the next steps are taken, so this is the time for which the steps stand still, and not that of the writing.
"""

import sys
import tempfile
from pathlib import Path

import _root  # noqa: F401
from _small_runs import ROOT
from absl import flags

sys.path.append(str(ROOT / "tests"))
from support.bucket import emulated

from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.jobs import train
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.training.goodput import seconds_by_phase
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import saved_steps

STEPS = flags.DEFINE_integer("steps", 2000, "The number of training steps.", lower_bound=1)
EVERY = flags.DEFINE_integer("every", 500, "The number of steps between checkpoints.", lower_bound=1)


def main() -> None:
    """Prints a line for each place."""
    config = experiment("digits")
    config.train.num_steps, config.checkpoint.every, config.checkpoint.keep = STEPS.value, EVERY.value, 1000
    config.log.preview_every = 0
    with tempfile.TemporaryDirectory() as folder, emulated() as bucket:
        for name, workdir in (("disk", Path(folder, "run")), ("bucket", any_path(f"{bucket}/run"))):
            train.train(config, workdir)
            seconds, saves = seconds_by_phase(read_log(workdir)), len(saved_steps(workdir / "checkpoints"))
            print(
                f"{name}: {saves} checkpoints in {STEPS.value} steps; training waited {seconds['saving']:.2f} s, "
                f"{seconds['saving'] / seconds['steps']:.2%} of the {seconds['steps']:.0f} s of its steps",
                flush=True,
            )


if __name__ == "__main__":
    cli.run(main, module=__name__)

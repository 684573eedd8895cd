"""Measures how long the jobs on trained runs of the digits take, each as a command of its own, with its start.

  python benchmarks/job_times.py --workdir=runs/digits
  python benchmarks/job_times.py --workdir=runs/digits --classifier=runs/digits_classifier --conditional=runs/two

The runs are copied to a temporary folder, and nothing is written to them. No compiled program is kept from one command
to the next. Jobs that need a run that is not given are left out.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import _root  # noqa: F401
from _small_runs import ROOT
from absl import flags

from ddpm_jax.commands import cli

WORKDIR = flags.DEFINE_string("workdir", None, "The run of a denoiser of digits.", required=True)
CLASSIFIER = flags.DEFINE_string("classifier", None, "The run of a classifier of noisy digits.")
CONDITIONAL = flags.DEFINE_string("conditional", None, "The run of a denoiser that was trained with the class.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "The number of images of each job.", lower_bound=2)


def jobs(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The jobs by name, with their commands; `folder` has copies of the runs and, later, two images."""
    run, many = f"--workdir={folder / 'workdir'}", f"--num_images={NUM_IMAGES.value}"
    first, second = (folder / "images" / f"00000{i}.png" for i in range(2))
    yield "bits/dim by the bound", ["evaluate.py", run, "--metrics=bpd", many]
    yield "likelihood by the ODE", ["evaluate.py", run, "--metrics=nll", many]
    yield "spectrum", ["evaluate.py", run, "--metrics=spectrum", many]
    yield "samples", ["sample.py", run, many, f"--out={folder / 'images'}/"]
    mask = f"--mask={ROOT / 'docs/images/mask.png'}"
    yield "samples with a part given", ["sample.py", run, many, f"--inpaint={first}", mask]
    yield "interpolation, 9 images", ["sample.py", run, f"--interpolate={first},{second}"]
    if CLASSIFIER.value:
        guide = f"--classifier_workdir={folder / 'classifier'}"
        yield "samples guided by a classifier", ["sample.py", run, many, guide, "--classifier_scale=2"]
    if CONDITIONAL.value:
        conditional = f"--workdir={folder / 'conditional'}"
        yield "samples with guidance scale 2", ["sample.py", conditional, many, "--guidance_scale=2"]


def main() -> None:
    """Prints the seconds of each job."""
    with tempfile.TemporaryDirectory() as name:
        folder, given = Path(name), {"workdir": WORKDIR, "classifier": CLASSIFIER, "conditional": CONDITIONAL}
        for key, flag in given.items():
            if flag.value:
                shutil.copytree(flag.value, folder / key, ignore=shutil.ignore_patterns("evaluation"))
        for what, command in jobs(folder):
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / what)}
            begin = time.perf_counter()
            done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{what}: {done.stderr}")
            print(f"{what:<32}{time.perf_counter() - begin:6.1f} s", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__, uses_devices=False)

"""Trains a diffusion model, or resumes the training of one.

  python train.py                                  trains on handwritten digits; this takes minutes on a laptop
  python train.py --config=cifar10                 trains an experiment of this project, chosen by its name
  python train.py --config=FILE.py                 trains an experiment of your own, described by a Python file
  python train.py --config=celeba --workdir=DIR --config.optim.learning_rate=1e-4    changes one key of it
  python train.py --config=celeba --dry_run        estimates memory, arithmetic and speed without training
  python train.py --config=celeba --dry_run --topology=v5e:4x4    estimates them for a TPU slice, without having it
  python train.py --help_config                    lists every key with its default, its meaning and its values

The same command resumes an interrupted run, with the same result bit for bit. The experiments are the files of the
folder configs, and the docstring of each says what it needs.
"""

import re
import sys
import time
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddpm_jax import errors
from ddpm_jax.commands import cli, endings
from ddpm_jax.config import check_ranges, denoises
from ddpm_jax.jobs.failed_starts import recorded_if_it_fails
from ddpm_jax.runtime.paths import as_flag, run_folder
from ddpm_jax.runtime.storage import exists

if TYPE_CHECKING:
    from ddpm_jax.training.traced_steps import TracedSteps

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment to train: its name or a Python file (default: digits).", lock_config=True
)
flags.FLAGS["config"].default_as_str = ""  # otherwise --help shows None
WORKDIR = flags.DEFINE(
    cli.PathParser(),
    "workdir",
    None,
    "The directory of the run, for checkpoints, log and previews (default: runs/NAME, by the experiment's name).",
)
DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Print the number of parameters, and the memory, the arithmetic and the least time of a step, and stop.",
)
PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "START:STOP: write a trace of the steps from START to STOP, both included, to WORKDIR/profile, such as 100:105.",
)
HELP_CONFIG = flags.DEFINE_boolean(
    "help_config", False, "Print every key of the configuration with its default, its meaning and its values, and stop."
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "The TPU slice to estimate for with --dry_run, such as v5e:4x4, or several, 2xv5e:4x4; needs the package libtpu.",
)


def main() -> None:
    """Trains, draws a grid of samples if the model is a denoiser, and prints where everything is."""
    config = CONFIG.value
    if DRY_RUN.value or TOPOLOGY.value is not None:
        return dry_run(config)
    workdir = run_folder(WORKDIR.value or f"runs/{config.name}")
    with recorded_if_it_fails(workdir):
        check_ranges(config)
        traced = traced_steps(PROFILE.value)
    print(f"training {config.name} up to step {config.train.num_steps:,} in {workdir}", flush=True)
    from ddpm_jax.jobs.train import start  # which takes longer than all before: the first line is printed already
    from ddpm_jax.runs.run import Run
    from ddpm_jax.runs.sampling import sample_run
    from ddpm_jax.training.goodput import goodput_table
    from ddpm_jax.training.listing import checkpoint_path

    begin = time.perf_counter()
    start_step, state, stopped, seconds = start(config, workdir, hooks=traced, sinks=traced)
    already = start_step == int(state.step)
    if not already:
        print("\n".join(goodput_table(seconds)), flush=True)
    if stopped is not None:
        sys.exit(endings.exit_code_of_signal(stopped))
    there = as_flag("workdir", workdir)
    made, failed, go_on = (
        "",
        None,
        f"measure its accuracy with:\n  {errors.program('evaluate')} {there} --metrics=accuracy",
    )
    if denoises(config):
        picture = workdir / "samples.png"
        try:
            if not (already and exists(picture)):
                sample_run(Run(workdir), picture, num_images=config.log.preview_images, seed=0)
            made = f"samples in {picture}, "
        except errors.UserError as error:  # it ends the program, but only after what is finished has been printed
            failed = error
        go_on = f"draw more images with:\n  {errors.program('sample')} {there} --num_images=64 --seed=1"
    when = "was reached before" if already else f"after {(time.perf_counter() - begin) / 60:.1f} minutes"
    checkpoint = checkpoint_path(workdir / "checkpoints", int(state.step))
    print(f"done: step {int(state.step):,} {when}; {made}checkpoint in {checkpoint}; {go_on}", flush=True)
    if failed:
        raise failed


def traced_steps(steps: str | None) -> "list[TracedSteps]":
    """The trace that a flag asks for; none for None.

    Raises:
      UserError: the flag does not name steps.
    """
    if steps is None:
        return []
    from ddpm_jax.training.traced_steps import TracedSteps

    found = re.fullmatch(r"(\d{1,15}):(\d{1,15})", steps)
    if not found:
        raise errors.UserError(f"--profile={steps}: write the first and the last step as START:STOP, such as 100:105")
    return [TracedSteps(int(found[1]), int(found[2]))]


def dry_run(config: ConfigDict) -> None:
    """Prints the parameters, and the memory, the arithmetic and the least time that a training step takes."""
    from ddpm_jax.jobs.kept_plans import kept_plan
    from ddpm_jax.jobs.resources import table

    plan, file = kept_plan(config, topology=TOPOLOGY.value)
    lines = table(config, plan)
    print("\n".join([*lines, *([f"kept             in {file}, since the step is the same"] if file else [])]))


def command() -> None:
    """Runs the program."""
    if not any(argument.startswith(("--config=", "-config=")) or argument == "--config" for argument in sys.argv):
        sys.argv.insert(1, "--config=digits")
    cli.run(main, module=__name__)


if __name__ == "__main__":
    command()

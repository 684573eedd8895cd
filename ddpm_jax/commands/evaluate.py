"""Measures a trained run.

  python evaluate.py --workdir=runs/digits --metrics=bpd,nll --num_images=40    bits/dim: variational bound, likelihood
  python evaluate.py --workdir=runs/digits --metrics=spectrum                   at which t each frequency band settles
  python evaluate.py --workdir=runs/digits_classifier --metrics=accuracy        a classifier at every noise level

Prints a table, and writes JSON files and plots to WORKDIR/evaluation.
"""

from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError

WORKDIR = flags.DEFINE(cli.PathParser(), "workdir", None, "The directory of the run to measure.", required=True)
METRICS = flags.DEFINE_list(
    "metrics",
    "bpd",
    "Metrics, separated by commas. Of a denoiser: bpd (the variational bound), nll (the likelihood by the "
    "probability-flow ODE), spectrum. Of a classifier: accuracy.",
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 500, "The number of images to measure, evenly spaced over the split.", lower_bound=1
)
SPLIT = flags.DEFINE_string(
    "split", "test", "The split of the run's data set to measure; ignored if the data is a folder."
)
DATA_PATH = flags.DEFINE(
    cli.PathParser(),
    "data_path",
    None,
    "The folder of images, or the data_dir of a TensorFlow data set (default: the one that the run was trained on).",
)
SKIP_UNREADABLE = flags.DEFINE_boolean(
    "skip_unreadable", False, "Skip image files that cannot be read, instead of ending with an error."
)
PARAMS = flags.DEFINE_enum(
    "params", "ema", ["ema", "raw"], "ema for the averaged parameters, raw for the parameters of the last step."
)
NUM_STEPS = flags.DEFINE_integer(
    "num_steps",
    0,
    "The number of steps of the chain or of the ODE solver (default: that of each metric).",
    lower_bound=0,
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 100, "The number of images per batch, which affects only memory and speed.", lower_bound=1
)


def main() -> None:
    """Opens the run and its images, measures the run, and prints the results."""
    from ddpm_jax.evaluation.evaluate import evaluate, table
    from ddpm_jax.runs.run import Run

    assert PARAMS.value in ("ema", "raw")
    run = Run(WORKDIR.value, params=PARAMS.value)
    if SKIP_UNREADABLE.value:
        run.config.data.skip_unreadable = True
    if DATA_PATH.value:
        if run.config.data.source == "digits":
            raise UserError("--data_path does not apply to this run: the digits are built in; leave the flag out")
        run.config.data.path = DATA_PATH.value
    if run.config.data.source == "folder" and not run.config.data.path:
        raise UserError(
            f"the run in {WORKDIR.value} does not name its images: give their folder with --data_path=FOLDER"
        )
    source = run.source(SPLIT.value)
    results = evaluate(
        run,
        METRICS.value,
        source=source,
        num_images=NUM_IMAGES.value,
        num_steps=NUM_STEPS.value,
        batch_size=BATCH_SIZE.value,
    )
    print(f"{WORKDIR.value}, step {run.step:,}, {PARAMS.value} parameters, {min(NUM_IMAGES.value, len(source))} images")
    print("\n".join(table(results)))
    print(f"written to {WORKDIR.value}/evaluation")


def command() -> None:
    """Runs the program."""
    cli.run(main, module=__name__)


if __name__ == "__main__":
    command()

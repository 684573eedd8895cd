"""Measures a trained run.

  python evaluate.py --workdir=runs/digits --metrics=bpd,nll --num_images=40   bits/dim: the bound and the likelihood
  python evaluate.py --workdir=runs/digits --metrics=spectrum                   which frequencies settle when
  python evaluate.py --workdir=runs/digits_classifier --metrics=accuracy        a classifier, over the noise levels

Prints a table; writes JSON and plots to WORKDIR/evaluation.
"""

from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError

WORKDIR = flags.DEFINE(cli.PathParser(), "workdir", None, "The run to measure.", required=True)
METRICS = flags.DEFINE_list(
    "metrics", "bpd", "Which: bpd (bound), nll (likelihood by the ODE), spectrum; accuracy (classifier)."
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 500, "How many images of the split, evenly spaced over it.", lower_bound=1
)
SPLIT = flags.DEFINE_string("split", "test", "Split of the run's data set (a folder has no splits).")
DATA_PATH = flags.DEFINE(cli.PathParser(), "data_path", None, "Another folder or data_dir than the run was trained on.")
SKIP_UNREADABLE = flags.DEFINE_boolean("skip_unreadable", False, "Pass over files that cannot be read.")
PARAMS = flags.DEFINE_enum("params", "ema", ["ema", "raw"], "Averaged parameters, or those of the last step.")
NUM_STEPS = flags.DEFINE_integer(
    "num_steps", 0, "Steps of the chain or solver (default: each metric's).", lower_bound=0
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Images at a time; changes memory and speed only.", lower_bound=1)


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
            raise UserError("--data_path is for runs of a folder or of tensorflow-datasets; the digits are built in")
        run.config.data.path = DATA_PATH.value
    if run.config.data.source == "folder" and not run.config.data.path:
        raise UserError(f"{WORKDIR.value} names no images to measure it with: say --data_path=FOLDER")
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

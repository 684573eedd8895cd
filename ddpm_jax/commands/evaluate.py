"""Measures a trained run, or images of any project.

  python evaluate.py --workdir=runs/digits --metrics=bpd,nll --num_images=40    bits/dim: variational bound, likelihood
  python evaluate.py --workdir=runs/digits --metrics=spectrum                   at which t each frequency band settles
  python evaluate.py --workdir=runs/digits_classifier --metrics=accuracy        a classifier at every noise level
  python evaluate.py --workdir=runs/digits --metrics=fd,kid,pr --features=runs/digits_classifier    its samples
  python evaluate.py --workdir=DIR --metrics=fid,kid,is --num_images=50000 --feature_weights=FILE.pth
  python evaluate.py --images=FOLDER --reference=FOLDER2 --metrics=fid          images of any project
  python evaluate.py --workdir=DIR --make_reference=FILE.npz                    the run's data as a reference file
  python evaluate.py --workdir=DIR --report                                     everything about a run on one page
  python evaluate.py --workdir=DIR --fit_chain                                  what --grid=bound, fitted need

bpd, nll and spectrum measure a denoiser on the images of a split, accuracy a classifier. The other metrics draw
samples and compare their features with those of a reference: the run's training data, or --reference. They continue
where they were interrupted. docs/metrics.md says what each of them sees.

Prints a table. Of a run, writes JSON files, plots and a line for each result, results.jsonl, to WORKDIR/evaluation.
"""

from typing import TYPE_CHECKING

from absl import flags

from ddpm_jax.commands import chain_flags, cli
from ddpm_jax.commands.chain_flags import NUM_STEPS, PARAMS, SEED
from ddpm_jax.config import KEYS, denoises
from ddpm_jax.errors import UserError

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

flags.adopt_module_key_flags(chain_flags)
WORKDIR = flags.DEFINE(cli.PathParser(), "workdir", None, "The directory of the run to measure.")
IMAGES = flags.DEFINE(
    cli.PathParser(),
    "images",
    None,
    "Images to measure instead of a run: a folder, or a .npz or .npy file with an array [N, H, W, C]. They need "
    "--reference.",
)
METRICS = flags.DEFINE_list(
    "metrics",
    None,
    "Metrics, separated by commas. Of a denoiser: bpd (the variational bound), nll (the likelihood by the "
    "probability-flow ODE), spectrum. Of a classifier: accuracy. Of samples or images: fid, fid_inf (extrapolated to "
    "infinitely many images), sfid, fd and fd_inf (the Frechet distance of any features), fd_dinov2, kid, is, pr "
    "(precision and recall), dc (density and coverage), memorisation (copies of training images, for a run with "
    "config.data.held_out) (default: bpd, accuracy or fid).",
)
REFERENCE = flags.DEFINE_string(
    "reference",
    "",
    "What samples or images are compared with: a folder or a file of images, a reference or statistics file (.npz), or "
    "an experiment, whose training data is taken (default: the data that the run was trained on).",
)
MAKE_REFERENCE = flags.DEFINE(
    cli.PathParser(), "make_reference", None, "FILE.npz to write: the reference, to compare with later."
)
REPORT = flags.DEFINE_boolean(
    "report",
    False,
    "Write WORKDIR/evaluation/report.html: samples, the chain, quality, diversity and speed, and where each number "
    "comes from, on one page that needs no network connection.",
)
FIT_CHAIN = flags.DEFINE_boolean(
    "fit_chain",
    False,
    "Measure a denoiser on its training images for --grid=bound (the sequence of times with the lowest bound), "
    "--grid=fitted (with the least error of deterministic steps) and --variance=analytic; writes to WORKDIR/fitted.",
)
FEATURES = flags.DEFINE_string(
    "features",
    "",
    "The features of images: torch_fidelity, pytorch_fid or clean_fid (Inception by the protocol of that name), "
    "dinov2_vitb14, dinov2_vitl14, pixels, or the directory of a classifier's run (default: those of each metric).",
)
FEATURE_WEIGHTS = flags.DEFINE(
    cli.PathParser(),
    "feature_weights",
    None,
    "The published .pth file of the feature network, which is needed once: it is kept for the next time.",
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    None,
    "The number of images of the split, evenly spaced, or of samples (default: 500 images, 5000 samples; in a report "
    "192 samples of each chain).",
    lower_bound=1,
)
SPLIT = flags.DEFINE_string(
    "split",
    "test",
    "The split of the run's data set for bpd, nll, spectrum and accuracy; held_out: the images that training left out "
    "(config.data.held_out). For a folder every other name means the images of the training.",
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
DECODER = flags.DEFINE_enum(
    "decoder",
    None,
    KEYS["sample.decoder"].choices,
    "The normal CDF in the last term of bpd: exact, or the approximation of published code, to compare with published "
    "bits per dimension (default: the run's).",
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 100, "The number of images per batch, which affects only memory and speed.", lower_bound=1
)


def main() -> None:
    """Measures what the flags name, and prints the results."""
    check_flags()
    run = opened_run(WORKDIR.value) if WORKDIR.value else None
    if IMAGES.value:
        measure_images(IMAGES.value)
    elif MAKE_REFERENCE.value:
        write_reference(MAKE_REFERENCE.value, run)
    elif run is not None and REPORT.value:
        report(run)
    elif run is not None and FIT_CHAIN.value:
        fit_chain(run)
    elif run is not None:
        measure_run(run)


def check_flags() -> None:
    """Raises a UserError where the flags do not say what to measure, or one of them would have no effect."""
    if IMAGES.value and WORKDIR.value:
        raise UserError("--images measures images without a run: leave --workdir out")
    of_runs = [
        *flags.FLAGS.get_flags_for_module(chain_flags),
        *(flags.FLAGS[name] for name in ("split", "data_path", "decoder")),
    ]
    for flag in of_runs:
        if IMAGES.value and flag.present:
            raise UserError(f"--{flag.name} applies only to a run, and --images measures images: leave it out")
    if IMAGES.value and not REFERENCE.value:
        raise UserError("--images needs --reference=FOLDER, FILE.npz or an experiment, with which they are compared")
    if not (IMAGES.value or WORKDIR.value or (MAKE_REFERENCE.value and REFERENCE.value)):
        raise UserError("say what to measure: --workdir=DIR, a run, or --images=FOLDER")
    if MAKE_REFERENCE.value and METRICS.value:
        raise UserError("--make_reference measures nothing: leave --metrics out")
    if DECODER.value and METRICS.value is not None and "bpd" not in METRICS.value:
        raise UserError("--decoder belongs to the metric bpd: leave it out")
    for flag in (REPORT, FIT_CHAIN):
        if flag.value:
            _check_alone(flag.name)


def _check_alone(name: str) -> None:
    """Raises a `UserError` if a flag is given that does nothing together with --report or --fit_chain."""
    if not WORKDIR.value:
        raise UserError(f"--{name} measures a run: give its directory with --workdir=DIR")
    given = {"metrics": METRICS, "reference": REFERENCE, "make_reference": MAKE_REFERENCE}
    given |= {other.name: other for other in (REPORT, FIT_CHAIN) if other.name != name}
    if useless := [other for other, flag in given.items() if flag.value]:
        raise UserError(f"--{name} has measurements of its own: leave --{useless[0]} out")


def opened_run(workdir: str) -> "Run":
    """The run, with what the flags change in its chain and in its data."""
    run = chain_flags.opened_run(workdir)
    run.configure(decoder=DECODER.value)
    if SKIP_UNREADABLE.value:
        run.config.data.skip_unreadable = True
    if DATA_PATH.value:
        if run.config.data.source == "digits":
            raise UserError("--data_path does not apply to this run: the digits are built in; leave the flag out")
        run.config.data.path = DATA_PATH.value
    return run


def measure_run(run: "Run") -> None:
    """Measures a run."""
    from ddpm_jax.evaluation.evaluate import METRICS as TABLE
    from ddpm_jax.evaluation.evaluate import evaluate, table

    default = ["bpd" if denoises(run.config) else "accuracy"]
    metrics = default if METRICS.value is None else METRICS.value
    needs_data = any(name in TABLE for name in metrics) or not REFERENCE.value
    if needs_data:
        _check_data(run)
    results = evaluate(
        run,
        metrics,
        source=run.source(SPLIT.value) if any(name in TABLE for name in metrics) else None,
        num_images=NUM_IMAGES.value,
        num_steps=NUM_STEPS.value,
        batch_size=BATCH_SIZE.value,
        seed=SEED.value,
        reference=REFERENCE.value,
        features=FEATURES.value,
        weights=FEATURE_WEIGHTS.value,
    )
    counts = {results[name]["num_images"] for name in metrics if name in TABLE}
    images = "".join(f", {count:,} images" for count in counts)
    print(f"{WORKDIR.value}, step {run.step:,}, {PARAMS.value} parameters{images}")
    print("\n".join(table(results)))
    print(f"written to {WORKDIR.value}/evaluation")


def _check_data(run: "Run") -> None:
    """Raises a UserError where the data of a run is a folder that is not named."""
    if run.config.data.source == "folder" and not run.config.data.path:
        raise UserError(
            f"the run in {WORKDIR.value} does not name its images: give their folder with --data_path=FOLDER"
        )


def report(run: "Run") -> None:
    """Writes the report of a run."""
    from ddpm_jax.evaluation.report import write_report
    from ddpm_jax.evaluation.report.writing import NUM_IMAGES as USUAL

    _check_data(run)
    run.configure(num_steps=NUM_STEPS.value or None)
    options = {"features": FEATURES.value, "weights": FEATURE_WEIGHTS.value, "seed": SEED.value}
    path = write_report(run, num_images=NUM_IMAGES.value or USUAL, batch_size=min(64, BATCH_SIZE.value), **options)
    print(f"wrote {path}")


def fit_chain(run: "Run") -> None:
    """Measures a run for its short chains."""
    from ddpm_jax.evaluation import fitting

    _check_data(run)
    source = run.source(SPLIT.value if flags.FLAGS["split"].present else "train")
    options = {"num_images": NUM_IMAGES.value or fitting.NUM_IMAGES, "batch_size": BATCH_SIZE.value}
    made = fitting.fit_chain(run, source=source, **options)
    print("\n".join(fitting.lines(run, made)))
    print(f"written to {WORKDIR.value}/fitted: choose them with --grid=bound or fitted, and --variance=analytic")


def measure_images(path: str) -> None:
    """Measures images of any project."""
    from ddpm_jax.evaluation.comparison import measure
    from ddpm_jax.evaluation.evaluate import table

    results = measure(
        path,
        REFERENCE.value,
        ["fid"] if METRICS.value is None else METRICS.value,
        num_images=NUM_IMAGES.value,
        features=FEATURES.value,
        weights=FEATURE_WEIGHTS.value,
        batch_size=BATCH_SIZE.value,
    )
    print("\n".join(table(results)))


def write_reference(path: str, run: "Run | None") -> None:
    """Writes a reference file."""
    from ddpm_jax.evaluation.comparison import make_reference
    from ddpm_jax.evaluation.references import reference_of
    from ddpm_jax.runtime.devices import device_mesh

    known = make_reference(
        path,
        reference_of(REFERENCE.value, run),
        mesh=device_mesh(),
        features=FEATURES.value or "torch_fidelity",
        weights=FEATURE_WEIGHTS.value,
        batch_size=BATCH_SIZE.value,
    )
    protocol = ", ".join(f"{key} {value}" for key, value in known.protocol.items())
    print(f"wrote {path}: {known.about['num_images']:,} images of {known.about['name']}; {protocol}")


def command() -> None:
    """Runs the program."""
    cli.run(main, module=__name__)


if __name__ == "__main__":
    command()

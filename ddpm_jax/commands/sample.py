"""Draws images from a trained run.

  python sample.py --workdir=runs/digits                             a grid of 64 images in samples_seed0.png there
  python sample.py --workdir=DIR --num_images=50000 --out=FILE.npz   an array arr_0 [N, H, W, C] for ADM's evaluator
  python sample.py --workdir=DIR --num_images=1000 --out=FOLDER/     one PNG per image; the same command resumes it
  python sample.py --workdir=DIR --trajectory=FILE.gif               an animation of the chain from noise to images
  python sample.py --workdir=DIR --labels=7 --guidance_scale=2       images of class 7, by a conditional model
  python sample.py --workdir=DIR --classifier_workdir=DIR2 --labels=7    images of class 7, guided by a classifier
  python sample.py --workdir=DIR --inpaint=IMAGE --mask=MASK         an image whose white part of the mask is redrawn
  python sample.py --workdir=DIR --interpolate=A.png,B.png --out=FILE.png    an interpolation between two images
  python sample.py --workdir=DIR --sampler=dpm_solver_pp_2m --grid=log_snr --num_steps=20    a fast sampler

All other settings are read from the run. Image i depends only on the seed and on i: the batch size and the number of
devices do not change it.
"""

from typing import TYPE_CHECKING

from absl import flags

from ddpm_jax.commands import chain_flags, cli
from ddpm_jax.commands.chain_flags import LABELS, NUM_STEPS, PARAMS, SEED
from ddpm_jax.data.classes import file_part, legend
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.paths import any_path

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

flags.adopt_module_key_flags(chain_flags)
WORKDIR = flags.DEFINE(cli.PathParser(), "workdir", None, "The directory of the run to sample from.", required=True)
OUT = flags.DEFINE(
    cli.PathParser(),
    "out",
    None,
    "What to write: FILE.png (a grid), FILE.npz (an array) or FOLDER/ (one PNG per image) "
    "(default: WORKDIR/samples_seedN.png).",
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", None, "The number of images (default: 64, or 9 with --interpolate).", lower_bound=1
)
INPAINT = flags.DEFINE(
    cli.PathParser(), "inpaint", None, "An image of the model's size, a part of which is drawn again; needs --mask."
)
MASK = flags.DEFINE(
    cli.PathParser(),
    "mask",
    None,
    "The mask for --inpaint, an image of the same size: white is drawn again, black is kept.",
)
INTERPOLATE = flags.DEFINE(
    cli.PathsParser(), "interpolate", None, "Two images A.png,B.png of the model's size to interpolate between."
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "The number of images per batch, which affects only memory and speed.", lower_bound=1
)
TRAJECTORY = flags.DEFINE(
    cli.PathParser(),
    "trajectory",
    None,
    "FILE.gif to write: an animation of the chain for the first images, at most 64.",
)


def main() -> None:
    """Opens the run, draws, and prints what was written."""
    from ddpm_jax.runs.editing import interpolate
    from ddpm_jax.runs.sampling import sample_run, sample_trajectory

    check_flags()
    run, num_images = configured_run(), NUM_IMAGES.value or 64
    name = "interpolation" if INTERPOLATE.value else "inpainted" if INPAINT.value else "samples"
    name += f"_labels_{file_part(LABELS.value)}" if LABELS.value else ""
    out = OUT.value or any_path(WORKDIR.value) / f"{name}_seed{SEED.value}.png"
    chain = {"seed": SEED.value, "num_steps": NUM_STEPS.value}
    written = []
    if INTERPOLATE.value:
        frames = {"num_images": NUM_IMAGES.value or 9, "num_steps": NUM_STEPS.value}
        written.append(interpolate(run, INTERPOLATE.value, out, **frames))
    if TRAJECTORY.value:
        written.append(sample_trajectory(run, TRAJECTORY.value, num_images=min(num_images, 64), **chain))
    if not written or (OUT.value and not INTERPOLATE.value):
        written.append(sample_run(run, out, num_images=num_images, batch_size=BATCH_SIZE.value, **chain))
    for path in written:
        print(f"wrote {path} (step {run.step:,}, {PARAMS.value} parameters)")
    asked = run.labels()
    if asked and not (INTERPOLATE.value and not LABELS.value):
        columns = written[-1].suffix in (".png", ".gif")
        what = "class" if len(asked) == 1 else "classes of the columns" if columns else "classes in turn"
        print(f"{what}: {legend(asked[:num_images], run.class_names, num_classes=run.num_classes)}")


def check_flags() -> None:
    """Raises a UserError where a flag would have no effect."""
    if bool(INPAINT.value) != bool(MASK.value):
        raise UserError(
            "--inpaint=IMAGE needs --mask=MASK, and the reverse: the image is redrawn where the mask is white"
        )
    if INPAINT.value and INTERPOLATE.value:
        raise UserError("--inpaint and --interpolate cannot be combined: give one of them")


def configured_run() -> "Run":
    """The run, with everything that the flags change in its configuration."""
    from ddpm_jax.runs.editing import read_mask, read_picture

    run = chain_flags.opened_run(WORKDIR.value)
    if INPAINT.value:
        assert MASK.value, "check_flags wants both"
        run.inpaint(read_picture(INPAINT.value, run.shape), read_mask(MASK.value, run.shape))
    return run


def command() -> None:
    """Runs the program."""
    cli.run(main, module=__name__)


if __name__ == "__main__":
    command()

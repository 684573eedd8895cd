"""Draws images from a trained run.

  python sample.py --workdir=runs/digits                             a grid of 64: runs/digits/samples_seed0.png
  python sample.py --workdir=DIR --num_images=50000 --out=FILE.npz   uint8 arr_0 [N, H, W, C], for ADM's evaluator
  python sample.py --workdir=DIR --num_images=1000 --out=FOLDER/     one PNG an image; continues a folder half done
  python sample.py --workdir=DIR --trajectory=FILE.gif               the chain from noise to images
  python sample.py --workdir=DIR --sampler=dpm_solver_pp_2m --grid=log_snr --num_steps=20    fast

Everything else is read from the run. Image i depends on the seed and on i alone, whatever the batch size and devices.
"""

from pathlib import Path

from absl import flags

from ddpm_jax import program
from ddpm_jax.build import GRIDS, SAMPLERS

WORKDIR = flags.DEFINE_string("workdir", None, "The run to sample from.", required=True)
OUT = flags.DEFINE_string(
    "out", None, "FILE.png (grid), FILE.npz (array) or FOLDER/ (default: WORKDIR/samples_seedN.png)."
)
NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "How many images.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Another seed, other images.", lower_bound=0)
PARAMS = flags.DEFINE_enum("params", "ema", ["ema", "raw"], "Averaged parameters, or those of the last step.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 0, "Steps of the chain (default: the run's).", lower_bound=0)
SAMPLER = flags.DEFINE_enum("sampler", None, sorted(SAMPLERS), "Way down the chain (default: the run's).")
VARIANCE = flags.DEFINE_enum(
    "variance", None, ["small", "large", "learned"], "Of the ancestral step (default: the run's)."
)
ETA = flags.DEFINE_float("eta", None, "Noise in DDIM, 0 (none) to 1 (ancestral) (default: the run's).")
GRID = flags.DEFINE_enum("grid", None, sorted(GRIDS), "Spacing of the chain's times (default: the run's).")
CORRECTOR_STEPS = flags.DEFINE_integer(
    "corrector_steps", None, "Langevin steps after each move (default: the run's).", lower_bound=0
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at a time; changes memory and speed only.", lower_bound=1)
TRAJECTORY = flags.DEFINE_string("trajectory", None, "FILE.gif: the chain of the first images (at most 64).")


def main():
    """Opens the run, draws, and says what was written."""
    from ddpm_jax.sampling import Run, sample_run, sample_trajectory

    run = Run(WORKDIR.value, params=PARAMS.value).configure(
        sampler=SAMPLER.value,
        variance=VARIANCE.value,
        eta=ETA.value,
        grid=GRID.value,
        corrector_steps=CORRECTOR_STEPS.value,
    )
    chain = {"seed": SEED.value, "num_steps": NUM_STEPS.value}
    if TRAJECTORY.value:
        written = sample_trajectory(run, TRAJECTORY.value, num_images=min(NUM_IMAGES.value, 64), **chain)
        print(f"wrote {written} (step {run.step:,}, {PARAMS.value} parameters)")
    if OUT.value or not TRAJECTORY.value:
        out = OUT.value or str(Path(WORKDIR.value) / f"samples_seed{SEED.value}.png")
        written = sample_run(run, out, num_images=NUM_IMAGES.value, batch_size=BATCH_SIZE.value, **chain)
        print(f"wrote {written} (step {run.step:,}, {PARAMS.value} parameters)")


if __name__ == "__main__":
    program.run(main)

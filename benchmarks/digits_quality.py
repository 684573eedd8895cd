"""Measures samples of a digits run by precision, recall and Frechet distance, and real digits for comparison.

  python benchmarks/digits_quality.py --workdir=runs/digits
  python benchmarks/digits_quality.py --workdir=runs/digits --features=runs/digits_classifier

The first command draws 500 images with the run's own sampler, and measures them on pixels against 500 digits of the
training split: precision and recall with k = 3 (Kynkaanniemi et al. 2019), and the Frechet distance of pixels in
[-1, 1]. Two rows of real digits show which values can be reached: 500 other digits of the training split (the same
writers) and the 500 digits of the test split (other writers).

The second command draws 1,500 images for each of three seeds, and prints the Frechet distance to all training digits,
by the features of a classifier that was trained here and on pixels, over the steps of two samplers and over the scale
of classifier-free guidance. It says whether more steps have a smaller distance. Beside it are precision and recall on
pixels of the first 500 images, and the variance of all relative to that of the digits, as means over the seeds. A
command that was interrupted continues: features are kept in `WORKDIR/evaluation/features`.
"""

import _root  # noqa: F401
import numpy as np
from _digits_features import NUM, quality, real, reference
from _digits_steps import SCALE_STEPS, SEEDS, print_scales, print_steps
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.runs.chain import draw
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The directory of the run to measure.")
SEED = flags.DEFINE_integer("seed", 0, "The seed of the samples of the first table.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 0, "The number of steps of its chain (default: the run's).")
FEATURES = flags.DEFINE_list("features", [], "Runs of classifiers, for the tables over steps and guidance scales.")
CONDITIONAL = flags.DEFINE_string("conditional_workdir", "runs/digits_conditional", "The run that is guided.")
STEPS = flags.DEFINE_list("steps", "5,10,20,50", "The numbers of steps, separated by commas.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 1500, "The number of images for each seed of the table over steps.")


def print_own() -> None:
    """Prints the table of the run's own sampler."""
    run = Run(WORKDIR.value)
    chain = run.chain(NUM_STEPS.value)
    samples = draw(chain, run.params, seed=SEED.value, indices=np.arange(NUM), batch_size=100)
    print(f"{NUM} images against {NUM} training digits, pixels, k = 3; step {run.step:,}, {chain.num_steps} steps")
    print(f"{'':<44}precision  recall  FD, pixels in [-1, 1]")
    for name, images in (
        ("samples of the run", samples),
        ("other digits of the training split", reference()[1]),
        ("digits of the test split (other writers)", real("test")[:NUM]),
    ):
        precision, recall, frechet = quality(images)
        print(f"{name:<44}{precision:9.3f}  {recall:6.3f}  {frechet:21.3f}")


def main() -> None:
    """Prints the tables."""
    if not FEATURES.value:
        print_own()
        return
    print(f"{NUM_IMAGES.value:,} images for each of {len(SEEDS)} seeds against all training digits")
    steps = [int(number) for number in STEPS.value]
    print_steps(FEATURES.value, Run(WORKDIR.value), steps=steps, num_images=NUM_IMAGES.value)
    print(f"conditional model, DDIM with {SCALE_STEPS} steps, by the scale of classifier-free guidance")
    print_scales(FEATURES.value, Run(CONDITIONAL.value), num_images=NUM_IMAGES.value)


if __name__ == "__main__":
    cli.run(main, module=__name__)

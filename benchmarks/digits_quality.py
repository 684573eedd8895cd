"""Measures precision and recall of a digits run on raw pixels, and those of real digits for comparison.

  python benchmarks/digits_quality.py --workdir=runs/digits

Draws 500 images with the run's own sampler, and measures precision and recall with k = 3 (Kynkaanniemi et al. 2019)
against 500 digits of the training split. Two rows of real digits show which values can be reached: 500 other digits of
the training split (the same writers) and the 500 digits of the test split (other writers).
"""

import _root  # noqa: F401
import numpy as np
from _digits_features import NUM, quality, real, reference
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.runs.chain import draw
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The directory of the run to measure.")
SEED = flags.DEFINE_integer("seed", 0, "The seed of the samples.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 0, "The number of steps of the chain (default: the run's).")


def main() -> None:
    """Prints the table."""
    run = Run(WORKDIR.value)
    chain = run.chain(NUM_STEPS.value)
    samples = draw(chain, run.params, seed=SEED.value, indices=np.arange(NUM), batch_size=100)
    print(f"{NUM} images against {NUM} training digits, pixels, k = 3; step {run.step:,}, {chain.num_steps} steps")
    print(f"{'':<44}precision  recall")
    for name, images in (
        ("samples of the run", samples),
        ("other digits of the training split", reference()[1]),
        ("digits of the test split (other writers)", real("test")[:NUM]),
    ):
        precision, recall = quality(images)
        print(f"{name:<44}{precision:9.3f}  {recall:6.3f}")


if __name__ == "__main__":
    cli.run(main, module=__name__)

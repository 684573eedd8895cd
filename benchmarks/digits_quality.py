"""Precision and recall of a digits run on raw pixels, beside what real digits get.

  python benchmarks/digits_quality.py --workdir=runs/digits

Draws 500 images with the run's own sampler; k = 3 precision and recall (Kynkaanniemi et al. 2019) against 500
digits of the training split. Two rows of real digits say what the figures can be: 500 others of the training split (the
same writers) and the 500 of the test split (other writers).
"""

import _root  # noqa: F401
import numpy as np
from _digits_features import NUM, quality, real, reference
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.runs.chain import draw
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The run to measure.")
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 0, "Moves of the chain (default: what the run's configuration says).")


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

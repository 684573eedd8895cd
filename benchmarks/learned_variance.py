"""Compares short chains with learned, small and large variance on the same weights.

  python benchmarks/learned_variance.py --workdir=runs/digits_improved

Prints precision, recall and the Frechet distance of pixels in [-1, 1].
"""

import _root  # noqa: F401
import numpy as np
from _digits_features import NUM, quality
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.runs.chain import draw
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", "runs/digits_improved", "The directory of a run with a learned variance.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 25, "The number of steps of the chain.")


def main() -> None:
    """Prints the table."""
    run = Run(WORKDIR.value)
    print(f"{NUM} digits, pixels, k = 3, {NUM_STEPS.value} ancestral steps, run at step {run.step:,}")
    print("variance  precision  recall  FD, pixels in [-1, 1]")
    for variance in ("learned", "small", "large"):
        chain = run.configure(variance=variance).chain(NUM_STEPS.value)
        samples = draw(chain, run.params, seed=0, indices=np.arange(NUM), batch_size=100)
        precision, recall, frechet = quality(samples)
        print(f"{variance:<9}{precision:10.3f}{recall:8.3f}{frechet:23.3f}", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)

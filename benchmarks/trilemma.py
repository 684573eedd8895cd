"""Plots the quality, diversity and speed of the samplers of a run, as its report does.

  python benchmarks/trilemma.py --workdir=runs/digits --out=docs/images/trilemma.png

Draws images by several samplers and numbers of steps, and measures precision and recall, the Frechet distance of pixels
and the time per image; prints them as a table and plots them.
"""

import _root  # noqa: F401
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.evaluation.report.chains import compared
from ddpm_jax.evaluation.report.subject import Subject
from ddpm_jax.evaluation.report.trilemma import trilemma
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The directory of the run to measure.")
OUT = flags.DEFINE_string("out", "runs/trilemma.png", "The PNG file for the plot.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 192, "The number of images of each chain.", lower_bound=16)


def main() -> None:
    """Prints the table and writes the plot."""
    rows, _, _ = compared(Subject(Run(WORKDIR.value), NUM_IMAGES.value))
    print(f"{'sampler, steps':28}{'precision':>10}{'recall':>8}{'distance':>10}{'evaluations':>13}{'images/s':>10}")
    for row in rows:
        name, shares = f"{row['name']}, {row['num_steps']:,}", (row["precision"]["value"], row["recall"]["value"])
        numbers = f"{shares[0]:10.3f}{shares[1]:8.3f}{row['distance']['value']:10.3f}"
        print(f"{name:28}{numbers}{row['evaluations']:13,}{1 / row['seconds']:10.2f}")
    trilemma(rows).savefig(OUT.value)
    print(f"wrote {OUT.value}")


if __name__ == "__main__":
    cli.run(main, module=__name__)

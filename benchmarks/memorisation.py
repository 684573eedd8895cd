"""Measures whether networks copy their training images: one trained on nine tenths of the digits, one on 20 of them.

  python train.py --workdir=runs/digits_held --config.data.held_out=0.1
  python benchmarks/memorisation.py --workdir=runs/digits_held --twenty=runs/digits_20

Trains the second run if it is not there, on 20 digits evenly spaced over the training images of the first, for as many
steps. Draws 200 images of either, in chains of 100 steps, and prints the ratio of the median distances to the nearest
training image, of the samples and of the held-out digits, on pixels, with its interval of 95 %
(`ddpm_jax/metrics/memorisation.py`).
"""

import _root  # noqa: F401
import numpy as np
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.config import experiment
from ddpm_jax.data.in_memory import ArrayImages
from ddpm_jax.data.source import Source
from ddpm_jax.jobs.train import train
from ddpm_jax.metrics.memorisation import memorisation
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.paths import holds_checkpoints, local_path

WORKDIR = flags.DEFINE_string("workdir", "runs/digits_held", "The run of the digits with config.data.held_out.")
TWENTY = flags.DEFINE_string("twenty", "runs/digits_20", "The run on 20 digits; it is trained if it is absent.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 100, "The number of steps of the chains.")
NUM = 200


def main() -> None:
    """Prints a row for each run."""
    run = Run(WORKDIR.value)
    train_images, held_out = images_of(run.source("train")), images_of(run.source("held_out"))
    few = train_images[np.arange(20) * len(train_images) // 20]
    if not holds_checkpoints(local_path(TWENTY.value) / "checkpoints"):
        config = experiment("digits")
        config.train.num_steps = run.step
        train(config, TWENTY.value, source=ArrayImages(few))
    print(f"{NUM} samples in {NUM_STEPS.value} steps, relative to {len(held_out)} held-out digits, pixels")
    for name, opened, known in (("run", run, train_images), ("run on 20 digits", Run(TWENTY.value), few)):
        samples = opened.sample(NUM, num_steps=NUM_STEPS.value, batch_size=100)
        found = memorisation(features(samples), features(held_out), features(known))
        ratio, share = found.ratio, np.mean(found.distance < found.held_out_distance.min())
        print(
            f"{name:<18} step {opened.step:,}  {len(known):>5,} images  ratio {ratio.value:.3f} "
            f"(95 %: {ratio.low:.3f} to {ratio.high:.3f}), median distance {np.median(found.distance):.2f}, "
            f"{share:.1%} of the samples nearer than any held-out digit"
        )


def images_of(source: Source) -> np.ndarray:
    """All images of a source, `[N, H, W, C]` uint8."""
    return np.stack([source[i]["image"] for i in range(len(source))])


def features(images: np.ndarray) -> np.ndarray:
    """Images `[N, H, W, C]` uint8 as pixels in [-1, 1], `[N, D]`."""
    return images.reshape(len(images), -1) / np.float32(127.5) - 1


if __name__ == "__main__":
    cli.run(main, module=__name__)

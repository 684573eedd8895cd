"""Trains digits with the bound and with the bound without its weights, for as many steps, and compares the two.

  python benchmarks/dropped_weight.py --num_steps=1000

Both losses have the fixed variance beta and train the same network from the same seeds, with uniform times: "L_vlb" is
the bound of Ho et al. 2020, eq. 5, and "L_simple" is eq. 14. Prints the bound on digits of the test split, and
precision, recall and the Frechet distance of samples, for each seed and as means. Runs are kept in the work directory:
a command that was interrupted continues.
"""

import _root  # noqa: F401
import numpy as np
from _digits_features import NUM, quality
from _fixed_variance import FixedVarianceBound
from absl import flags

import ddpm_jax as dj
from ddpm_jax.commands import cli

WORKDIR = flags.DEFINE_string("workdir", "runs/dropped_weight", "The directory in which the runs are kept.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 1000, "The number of training steps of each run.")
SAMPLE_STEPS = flags.DEFINE_integer("sample_steps", 100, "The number of ancestral steps of the samples.")
BOUND_IMAGES = flags.DEFINE_integer("bound_images", 100, "The number of test digits on which the bound is measured.")
SEEDS = flags.DEFINE_list("seeds", "0,1,2", "The seeds, separated by commas.")


def measured(name: str, seed: int) -> tuple[float, ...]:
    """The bound (bits per dimension), precision, recall and Frechet distance of a run, trained where it is not yet."""
    config = dj.experiment("digits")
    config.seed, config.train.num_steps, config.loss.times = seed, NUM_STEPS.value, "uniform"
    config.log.preview_every = 0
    loss = FixedVarianceBound(config.diffusion.num_timesteps) if name == "L_vlb" else None
    workdir = f"{WORKDIR.value}/{name}_{NUM_STEPS.value}_{seed}"
    if int(dj.train(config, workdir, loss=loss).step) < NUM_STEPS.value:
        raise dj.UserError("interrupted; the same command continues")
    run = dj.Run(workdir)
    bound = dj.evaluate(run, ["bpd"], num_images=BOUND_IMAGES.value)["bpd"]["bits_per_dim"]
    samples = run.sample(NUM, seed=seed, num_steps=SAMPLE_STEPS.value, batch_size=100)
    return bound, *quality(samples)


def main() -> None:
    """Prints the table."""
    print(f"{NUM_STEPS.value:,} training steps; bound on {BOUND_IMAGES.value} test digits, all steps of the chain;")
    print(f"{NUM} samples in {SAMPLE_STEPS.value} ancestral steps, pixels, k = 3")
    print("loss      seed  bits/dim  precision  recall  FD, pixels in [-1, 1]")
    rows: dict[str, list[tuple[float, ...]]] = {"L_vlb": [], "L_simple": []}
    for seed in SEEDS.value:
        for name, found in rows.items():
            found.append(measured(name, int(seed)))
            print(line(name, seed, found[-1]), flush=True)
    for name, found in rows.items():
        print(line(name, "mean", np.mean(found, axis=0)), flush=True)


def line(name: str, seed: str, row: tuple[float, ...] | np.ndarray) -> str:
    """One line of the table."""
    bound, precision, recall, frechet = row
    return f"{name:<8}{seed:>6}{bound:10.3f}{precision:11.3f}{recall:8.3f}{frechet:23.3f}"


if __name__ == "__main__":
    cli.run(main, module=__name__)

"""Measures the bound of short chains: by the step sequence that has the lowest one, and by each variance.

  python benchmarks/sequences.py --workdir=runs/digits_improved
  python benchmarks/sequences.py --workdir=runs/digits_improved --num_samples=2000 --features=runs/digits_classifier

The chain is fitted to the run as by `evaluate.py --fit_chain`, on training images and with the run's own variance, and
the sequences are compared with evenly spaced ones (`trailing`) and with quadratic ones, on these images and on as many
of the test split, with other noise. The second table has the KL terms of evenly spaced chains by variance; the analytic
one is made of the error of the estimates that was measured on the training images. With `--num_samples` the last table
has the Frechet distance of samples by each sequence.
"""

import functools

import _root  # noqa: F401
import jax
import numpy as np
from absl import flags

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.likelihood import bits_per_dim, bound_terms
from ddpm_jax.diffusion.prediction import with_error
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.sequences import lowest_bound, total
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.fitting import fit_chain, measured_terms, whole_batches
from ddpm_jax.evaluation.images import Images
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", None, "The run of a denoiser.", required=True)
NUM_IMAGES = flags.DEFINE_integer("num_images", 128, "The number of images of each kind.", lower_bound=2)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 0, "The samples for the Frechet distance; 0 for none.", lower_bound=0)
FEATURES = flags.DEFINE_string("features", "pixels", "The features of this distance, as for evaluate.py.")
NUM_STEPS = flags.DEFINE_list("num_steps", "5,10,20,50", "The numbers of steps, separated by commas.")


def kl_terms(run: Run, split: str, times: np.ndarray, variance: Variance, errors: np.ndarray) -> float:
    """The sum of the KL terms of a chain on images of a split, in bits/dim."""
    schedule, images = factory.noise_schedule(run.config), images_of(run, split)
    indexed = np.arange(len(times) - 1), jax.tree.map(np.float32, schedule.transitions(times))
    ((x_0, label, keys, _),) = images
    denoise = with_error(run.denoiser()(run.params, label), errors)
    nats = jax.jit(functools.partial(bound_terms, denoise, x_0, variance=variance))(keys, indexed=indexed)["nats"]
    return float(bits_per_dim(nats[:-1].sum(0).mean(), run.shape))


def images_of(run: Run, split: str) -> Images:
    """The images of a split, in one batch."""
    return whole_batches(run.source(split), num_images=NUM_IMAGES.value, batch_size=NUM_IMAGES.value, run=run)


def main() -> None:
    """Prints both tables."""
    run, counts = Run(WORKDIR.value), [int(count) for count in NUM_STEPS.value]
    schedule, variance = factory.noise_schedule(run.config), factory.variance(run.config)
    fit = fit_chain(run, num_images=NUM_IMAGES.value, batch_size=NUM_IMAGES.value).fit
    fitted, (other, _) = fit.terms, measured_terms(run, images_of(run, "test"), "test")
    best = lowest_bound(fitted, max(counts))
    print(f"bits/dim without L_T, variance {variance.value}, {NUM_IMAGES.value} images each\n")
    print("steps  images   from the bound  trailing  quadratic  times from the bound")
    for count in counts:
        grids = [best[count - 1].times, timesteps.trailing(schedule, count), timesteps.quadratic(schedule, count)]
        grids[2] = np.unique(np.round(grids[2]))[::-1]
        for name, table in (("fitted", fitted), ("other", other)):
            values = [bits_per_dim(total(table, times), run.shape) for times in grids]
            shown = " ".join(map(str, grids[0])) if name == "fitted" and count <= 10 else ""
            print(f"{count:5}  {name:<7}  {values[0]:14.4f}  {values[1]:8.4f}  {values[2]:9.4f}  {shown}", flush=True)
    kinds = [v for v in Variance if v is not Variance.LEARNED or run.config.diffusion.learned_variance]
    print(f"\nKL terms in bits/dim, trailing\n\nsteps  images   {'  '.join(f'{v.value:>9}' for v in kinds)}")
    for count in [*counts, schedule.num_timesteps]:
        for name, split in (("fitted", "train"), ("other", "test")):
            times = timesteps.trailing(schedule, count)
            values = [kl_terms(run, split, times, kind, fit.x_0_mse) for kind in kinds]
            print(f"{count:5}  {name:<7}  {'  '.join(f'{value:9.4f}' for value in values)}", flush=True)
    if NUM_SAMPLES.value:
        distances(run, counts)


def distances(run: Run, counts: list[int]) -> None:
    """Prints the Frechet distance of samples by each sequence."""
    grids, options = ("bound", "trailing", "quadratic"), {"features": FEATURES.value, "num_images": NUM_SAMPLES.value}
    print(f"\nFrechet distance of {NUM_SAMPLES.value} samples\n\nsteps  {'  '.join(f'{grid:>9}' for grid in grids)}")
    for count in counts:
        chains = [
            evaluate(run.configure(grid=grid), ["fd"], num_steps=count, **options)["fd"]["value"] for grid in grids
        ]
        print(f"{count:5}  {'  '.join(f'{value:9.4f}' for value in chains)}", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)

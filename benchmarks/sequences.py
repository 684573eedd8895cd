"""Measures the bound of short chains: by the step sequence that has the lowest one, and by each variance.

  python benchmarks/sequences.py --workdir=runs/digits_improved
  python benchmarks/sequences.py --workdir=DIR --num_images=64 --num_steps=5,10

The terms between all pairs of times are measured on training images, with the run's own variance. Dynamic programming
finds the sequences in them, which are then compared with evenly spaced ones (`trailing`) and with quadratic ones, on
these images and on as many that were held out, with other noise. The second table has the KL terms of evenly spaced
chains by variance; the analytic one is made of the error of the estimates that was measured on the training images.
"""

import functools
import itertools

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddpm_jax import factory
from ddpm_jax.commands import cli
from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.likelihood import bits_per_dim, bound_terms
from ddpm_jax.diffusion.prediction import with_error
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition
from ddpm_jax.diffusion.sequences import best_sequences, steps_from, terms_of
from ddpm_jax.evaluation.images import Images
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.progress import progress_bar

WORKDIR = flags.DEFINE_string("workdir", None, "The run of a denoiser.", required=True)
NUM_IMAGES = flags.DEFINE_integer("num_images", 128, "The number of images of each kind.", lower_bound=2)
NUM_STEPS = flags.DEFINE_list("num_steps", "5,10,20,50", "The numbers of steps, separated by commas.")


class Measured:
    """What is measured of a run on images of a split.

    Args:
      run: the run.
      split: "train" or "test".
    """

    def __init__(self, run: Run, split: str) -> None:
        source = run.source(split)
        images = Images(source, num_images=NUM_IMAGES.value, batch_size=NUM_IMAGES.value, mesh=run.mesh)
        self._run, self._split, self._schedule = run, split, factory.noise_schedule(run.config)
        ((self._x_0, self._label, self._keys, _),) = images
        self._denoise = run.denoiser()(run.params, self._label)

    def terms(self, variance: Variance) -> np.ndarray:
        """The table of `best_sequences`, `[T, T]` bits/dim."""
        of_time = jax.jit(functools.partial(terms_of, self._denoise, self._x_0, variance=variance))
        rows = []
        with progress_bar(self._schedule.num_timesteps, f"terms, {self._split}", unit="time") as bar:
            for t in range(1, self._schedule.num_timesteps + 1):
                rows.append(of_time(self._keys_at(t), steps=_float32(steps_from(self._schedule, t))))
                bar.update(1)
        return bits_per_dim(np.array(rows, np.float64), self._x_0.shape[1:])

    def errors(self) -> np.ndarray:
        """The mean squared error of the estimate of x_0 at times 1..T, `[T]`."""

        def error(level: NoiseLevel, keys: jax.Array) -> jax.Array:
            x_t = q_sample(self._x_0, noise_like(keys, self._x_0), level)
            return jnp.mean((self._denoise(x_t, level).x_0 - self._x_0) ** 2)

        of_time, times = jax.jit(error), range(1, self._schedule.num_timesteps + 1)
        return np.array([of_time(_float32(self._schedule.level(t)), self._keys_at(t)) for t in times])

    def kl_terms(self, times: np.ndarray, variance: Variance, errors: np.ndarray) -> float:
        """The sum of the KL terms of a chain, in bits/dim."""
        indexed = np.arange(len(times) - 1), _float32(self._schedule.transitions(times))
        denoise = with_error(self._denoise, errors)
        of_chain = jax.jit(functools.partial(bound_terms, denoise, self._x_0, variance=variance))
        nats = of_chain(self._keys, indexed=indexed)["nats"]
        return float(bits_per_dim(nats[:-1].sum(0).mean(), self._x_0.shape[1:]))

    def _keys_at(self, t: int) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (0, None))(self._keys, t)


def total(terms: np.ndarray, times: np.ndarray) -> float:
    """The bound of a chain of two steps or more, by the table of its terms."""
    times = times.astype(int)
    last_two = terms[times[-2] - 1, times[-3] - 1]
    return sum(terms[t - 1, s - 1] for t, s in itertools.pairwise(times[:-1])) + last_two


def _float32(tree: Transition | NoiseLevel) -> Transition | NoiseLevel:
    return jax.tree.map(np.float32, tree)


def main() -> None:
    """Prints both tables."""
    run, counts = Run(WORKDIR.value), [int(count) for count in NUM_STEPS.value]
    schedule, variance = factory.noise_schedule(run.config), factory.variance(run.config)
    fitted, other = Measured(run, "train"), Measured(run, "test")
    tables = [fitted.terms(variance), other.terms(variance)]
    best = best_sequences(tables[0], max(counts))
    print(f"bits/dim without L_T, variance {variance.value}, {NUM_IMAGES.value} images each\n")
    print("steps  images   from the bound  trailing  quadratic  times from the bound")
    for count in counts:
        grids = [best[count - 1].times, timesteps.trailing(schedule, count), timesteps.quadratic(schedule, count)]
        grids[2] = np.unique(np.round(grids[2]))[::-1]
        for name, table in zip(("fitted", "other"), tables, strict=True):
            values = [total(table, times) for times in grids]
            shown = " ".join(map(str, grids[0])) if name == "fitted" and count <= 10 else ""
            print(f"{count:5}  {name:<7}  {values[0]:14.4f}  {values[1]:8.4f}  {values[2]:9.4f}  {shown}", flush=True)
    errors = fitted.errors()
    kinds = [v for v in Variance if v is not Variance.LEARNED or run.config.diffusion.learned_variance]
    print(f"\nKL terms in bits/dim, trailing\n\nsteps  images   {'  '.join(f'{v.value:>9}' for v in kinds)}")
    for count in [*counts, schedule.num_timesteps]:
        for name, measured in (("fitted", fitted), ("other", other)):
            times = timesteps.trailing(schedule, count)
            values = [measured.kl_terms(times, kind, errors) for kind in kinds]
            print(f"{count:5}  {name:<7}  {'  '.join(f'{value:9.4f}' for value in values)}", flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)

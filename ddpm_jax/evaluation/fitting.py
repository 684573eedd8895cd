"""Measures what short chains need of a run: terms of the bound and errors of steps between all times, errors of x_0.

Read next: `diffusion/sequences.py`, `runs/fitted.py`.
"""

import copy
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import factory
from ddpm_jax.config import denoises, to_json
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion import sequences, timesteps
from ddpm_jax.diffusion.arrays import noise_like, stream
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.diffusion.prediction import Prediction, eps_from_x_0, with_error
from ddpm_jax.diffusion.samplers import advance, ddim
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition
from ddpm_jax.diffusion.sequences import ChainFit
from ddpm_jax.errors import UserError, check_counts
from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.images import Images
from ddpm_jax.factory.models import ParametricDenoiser
from ddpm_jax.runs import fitted
from ddpm_jax.runs.configured import denoiser_of
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import replicated, split
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.runtime.storage import write_whole

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

NUM_IMAGES = 128
"""Images on which a chain is fitted, if no other number is asked for."""
_PATHS = 16  # accurate solutions on which the errors of steps are measured
_PATH_FLOATS = 2**28  # at most so many numbers of them are kept


def fit_chain(
    run: "Run", *, source: Source | None = None, num_images: int = NUM_IMAGES, batch_size: int = NUM_IMAGES
) -> fitted.Fitted:
    """Measures a run for `sample.grid=bound` and `fitted` and `sample.variance=analytic`, in `WORKDIR/fitted`.

    Args:
      run: `Run` of a denoiser; its variance, clipping and guidance are those of `run.config.sample`.
      source: images; None for the training split of the run's data set.
      num_images: how many of them; a whole number of batches is taken, so there may be fewer.
      batch_size: images at a time.

    Raises:
      UserError: the run is a classifier, or a file cannot be written.
    """
    check_counts(num_images=num_images, batch_size=batch_size)
    if not denoises(run.config):
        raise UserError(f"{run.workdir} is the run of a classifier, which has no chain")
    source = run.source("train") if source is None else factory.fitted(run.config, source)
    images = whole_batches(source, num_images=num_images, batch_size=batch_size, run=run)
    terms, mse = measured_terms(run, images, "fitting")
    fit = ChainFit(terms, measured_jumps(run), mse)
    about: dict[str, Any] = {
        "step": run.step,
        "network": run.digest(),
        "num_images": images.num_images,
        "variance": run.config.sample.variance,
        "sample": to_json(run.config.sample),
    }
    made = fitted.Fitted(fit, about)
    fitted.write(run, made)
    run.forget_chains()
    picture = plots.chain_fit(bits_per_dim_of(run, fit), _log_snr(run, fit, 20))
    write_whole(picture_of(run), picture.savefig)
    return made


def bits_per_dim_of(run: "Run", fit: ChainFit) -> dict[str, dict[int, float]]:
    """The bound without L_T of short chains, on the images of the fit: `{sequence: {number of steps: bits/dim}}`."""
    schedule = factory.noise_schedule(run.config)
    counts = [n for n in (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100) if n <= schedule.num_timesteps]
    best = sequences.lowest_bound(fit.terms, max(counts))
    even = {n: sequences.total(fit.terms, timesteps.trailing(schedule, n)) for n in counts}
    nats = {"bound": {n: best[n - 1].cost for n in counts}, "trailing": even}
    shape = run.shape
    return {name: {n: float(bits_per_dim(cost, shape)) for n, cost in of.items()} for name, of in nats.items()}


def _log_snr(run: "Run", fit: ChainFit, num_steps: int) -> dict[str, np.ndarray]:
    """The log-SNR of the times of a chain but the last, by sequence."""
    schedule = factory.noise_schedule(run.config)
    num_steps = min(num_steps, schedule.num_timesteps)
    times = {name: grid(fit, num_steps) for name, grid in factory.FITTED_GRIDS.items()}
    times["trailing"] = timesteps.trailing(schedule, num_steps)
    return {name: schedule.log_snr[grid[:-1].astype(int) - 1] for name, grid in times.items()}


def lines(run: "Run", made: fitted.Fitted) -> list[str]:
    """What was measured as lines to print: the bound of short chains by sequence."""
    known = bits_per_dim_of(run, made.fit)
    about = f"{made.about['num_images']} images, variance {made.about['variance']}, bits/dim without L_T"
    rows = [f"{n:>5}  {known['bound'][n]:8.4f}  {known['trailing'][n]:8.4f}" for n in known["bound"]]
    return [f"bound of short chains ({about})", "steps  --grid=bound  trailing", *rows]


def picture_of(run: "Run") -> AnyPath:
    """The path of the picture that `fit_chain` draws."""
    return fitted.path_of(run).with_suffix(".png")


def whole_batches(source: Source, *, num_images: int, batch_size: int, run: "Run") -> Images:
    """Images of a source, in batches of one size without padding, where there are as many as devices."""
    num_images = min(num_images, len(source))
    size = max(min(batch_size, num_images) // run.mesh.size, 1) * run.mesh.size
    return Images(source, num_images=max(num_images // size, 1) * size, batch_size=size, mesh=run.mesh)


def measured_terms(run: "Run", images: Images, doing: str) -> tuple[np.ndarray, np.ndarray]:
    """The terms and the errors of a `ChainFit`, with the run's variance: `[T, T]` nats and `[T]`."""
    schedule, variance, denoiser = factory.noise_schedule(run.config), factory.variance(run.config), _denoiser(run)
    cdf, T = factory.decoder(run.config), schedule.num_timesteps
    whole, cut = replicated(run.mesh), split(run.mesh)

    def at_time(
        params: chex.ArrayTree, x_0: jax.Array, label: jax.Array, keys: jax.Array, t: jax.Array, steps: Transition
    ) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        now = jax.tree.map(lambda leaf: leaf[0], steps.now)
        prediction = denoiser(params, label)(q_sample(x_0, noise_like(keys, x_0), now), now)
        mse = jnp.mean((prediction.x_0 - x_0) ** 2)
        known = with_error(lambda x_t, level: prediction, jnp.full(T, mse))
        return sequences.terms_of(known, x_0, keys, steps=steps, variance=variance, cdf=cdf), mse

    at_time = jax.jit(at_time, in_shardings=(whole, cut, cut, cut, whole, whole), out_shardings=whole)
    terms, errors = np.zeros((T, T)), np.zeros(T)
    with progress_bar(len(images) * T, doing, unit="time") as bar:
        for x_0, label, keys, _ in images:
            for t in range(1, T + 1):
                steps = jax.tree.map(np.float32, sequences.steps_from(schedule, t))
                found = jax.device_get(at_time(run.params, x_0, label, keys, np.int32(t), steps))
                terms[t - 1] += found[0] / len(images)
                errors[t - 1] += found[1] / len(images)
                bar.update(1)
    return terms, errors


def measured_jumps(run: "Run") -> np.ndarray:
    """The errors of deterministic steps of a `ChainFit`, on solutions in T steps: `[T, T]`."""
    schedule, denoiser = factory.noise_schedule(run.config), _denoiser(run)
    T, whole = schedule.num_timesteps, replicated(run.mesh)
    size = min(_PATHS, max(1, _PATH_FLOATS // (2 * T * int(np.prod(run.shape)))))
    labels = run.labels() or (0,)
    label = np.resize(np.array(labels, np.int32), size)
    levels = jax.tree.map(np.float32, schedule.level(np.arange(T)))
    chain = jax.tree.map(np.float32, schedule.transitions())

    def solved(params: chex.ArrayTree) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(stream(jax.random.key(0), "fitting"), size)
        sampler, x_T = ddim(0.0), noise_like(keys, jnp.zeros((size, *run.shape)))
        options = {"state": sampler.init(x_T), "indexed": (jnp.arange(T), chain)}
        kept = advance(sampler, denoiser(params, label), keys, keep=lambda state, info: (state.x, info.x_0), **options)
        x, x_0 = kept.kept
        return jnp.concatenate([x_T[None], x])[::-1], x_0[::-1]  # x at times 0..T, and the estimates at 1..T

    def at_time(x: jax.Array, x_t: jax.Array, x_0: jax.Array, now: NoiseLevel) -> jax.Array:
        return sequences.errors_of_jumps(Prediction(x_0, eps_from_x_0(x_0, x_t, now)), x, levels)

    with progress_bar(T, "errors of steps", unit="time") as bar:
        x, estimates = jax.jit(solved, out_shardings=whole)(run.params)
        errors_at, found = jax.jit(at_time, out_shardings=whole), []
        for t in range(1, T + 1):
            now = jax.tree.map(np.float32, schedule.level(t))
            found.append(jax.device_get(errors_at(x[:T], x[t], estimates[t - 1], now)))
            bar.update(1)
    return np.array(found, np.float64)


def _denoiser(run: "Run") -> ParametricDenoiser:
    """The run's denoiser, before anything is measured."""
    return denoiser_of(copy.deepcopy(run.config), run.model, classifier=run.classifier)

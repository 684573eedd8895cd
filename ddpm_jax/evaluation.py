"""The evaluation job: numbers and plots of a trained run, over all devices, into `WORKDIR/evaluation`.

Each metric is a function of an opened run and its images; it returns what goes into the JSON file and the lines of
its table.
"""

import json
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import build, grids, plots, spectrum
from ddpm_jax.arrays import image_keys, stream
from ddpm_jax.errors import UserError
from ddpm_jax.images import write_whole
from ddpm_jax.likelihood import (
    bits_per_dim,
    bound_terms,
    density_to_bits_per_dim,
    exact_trace,
    hutchinson_trace,
    ode_log_prob_nats,
    prior_term_nats,
)
from ddpm_jax.parallel import replicated, split
from ddpm_jax.progress import progress_bar

_EXACT_TRACE_DIMS = 256  # components up to which the trace of the Jacobian is computed exactly
_PIECE = 50  # moves between two looks of the progress bar


class Images:
    """The first images of a source in batches that divide over the devices, with a key each.

    Args:
      source: data source.
      num_images: how many; fewer if the source has fewer.
      batch_size: images at a time, rounded up to a multiple of the devices.
      mesh: the devices.
    """

    def __init__(self, source, *, num_images, batch_size, mesh):
        self._source, self.num_images = source, min(num_images, len(source))
        self._batch_size = math.ceil(min(batch_size, self.num_images) / mesh.size) * mesh.size
        self._mesh, self._key = mesh, stream(jax.random.key(0), "evaluation")

    def __len__(self):
        """Number of batches."""
        return math.ceil(self.num_images / self._batch_size)

    def __iter__(self):
        """Yields (x_0 `[B, H, W, C]` in [-1, 1], keys `[B]`, how many of the B count)."""
        for begin in range(0, self.num_images, self._batch_size):
            indices = np.arange(begin, begin + self._batch_size)
            images = np.stack([self._source[min(i, self.num_images - 1)]["image"] for i in indices.tolist()])
            x_0 = images.astype(np.float32) / 127.5 - 1
            keys = image_keys(self._key, indices)
            x_0, keys = jax.device_put((x_0, keys), split(self._mesh))
            yield x_0, keys, min(self._batch_size, self.num_images - begin)


def bound(run, images, *, num_steps):
    """Bits per dimension by the variational bound, split by term; `num_steps` 0 takes the whole chain."""
    transitions = build.sampling_transitions(run.config, num_steps)
    num_moves, denoiser, variance = len(transitions.beta), run.denoiser(), build.variance(run.config)
    moves = (np.arange(num_moves), jax.tree.map(partial(np.asarray, dtype=np.float32), transitions))
    whole, cut = replicated(run.mesh), split(run.mesh)

    def piece_terms(params, x_0, keys, moves):
        return bound_terms(denoiser(params), x_0, keys, moves=moves, variance=variance)

    piece_terms = jax.jit(piece_terms, in_shardings=(whole, cut, cut, whole), out_shardings=whole)
    prior_level = build.noise_schedule(run.config).level(run.config.diffusion.num_timesteps)
    size = max(d for d in range(1, min(_PIECE, num_moves) + 1) if num_moves % d == 0)
    nats, mse, prior = [], [], []
    with progress_bar(len(images) * num_moves, "bound", unit="move") as bar:
        for x_0, keys, count in images:
            pieces = []
            for begin in range(0, num_moves, size):
                piece = jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + size], moves)
                pieces.append(jax.device_get(piece_terms(run.params, x_0, keys, piece)))
                bar.update(size)
            nats.append(np.concatenate([p["nats"] for p in pieces])[:, :count])
            mse.append(np.concatenate([p["eps_mse"] for p in pieces])[:, :count])
            prior.append(np.asarray(prior_term_nats(x_0, prior_level))[:count])
    nats, mse, prior = np.concatenate(nats, 1).astype(np.float64), np.concatenate(mse, 1), np.concatenate(prior)
    bpd = partial(bits_per_dim, shape=run.shape)
    total = bpd(nats.sum(0) + prior)
    return {
        "bits_per_dim": float(total.mean()),
        "standard_error": standard_error(total),
        "L_T": float(bpd(prior.mean())),
        "L_between": float(bpd(nats[:-1].sum(0).mean())),
        "L_0": float(bpd(nats[-1].mean())),
        "variance": variance.value,
        "times": transitions.now.t.tolist(),
        "terms": bpd(nats.mean(1)).tolist(),
        "eps_mse": mse.mean(1).tolist(),
    }


def exact_likelihood(run, images, *, num_steps):
    """Bits per dimension by the probability-flow ODE of uniformly dequantised images; 0 takes 200 steps."""
    schedule = build.noise_schedule(run.config)
    try:
        times = grids.log_snr(schedule, 1 + (num_steps or min(200, schedule.num_timesteps - 1)))[:-1]
        transitions = jax.tree.map(partial(np.asarray, dtype=np.float32), schedule.encoding(times))
    except ValueError as error:
        raise UserError(f"no ODE of {num_steps} steps between t = 1 and T: {error}") from error
    exact, denoiser = math.prod(run.shape) <= _EXACT_TRACE_DIMS, run.denoiser(clip=False)

    def log_prob(params, x_0, keys):
        noise_keys, probe_keys = (jax.vmap(partial(stream, name=name))(keys) for name in ("dequantise", "probe"))
        x_0 = x_0 + jax.vmap(lambda k: jax.random.uniform(k, run.shape, minval=-1, maxval=1))(noise_keys) / 255
        trace = exact_trace
        if not exact:
            trace = hutchinson_trace(jax.vmap(lambda k: jax.random.rademacher(k, run.shape, jnp.float32))(probe_keys))
        return ode_log_prob_nats(denoiser(params), x_0, transitions=transitions, trace=trace)

    whole, cut = replicated(run.mesh), split(run.mesh)
    log_prob = jax.jit(log_prob, in_shardings=(whole, cut, cut), out_shardings=whole)
    nats = []
    with progress_bar(images.num_images, "likelihood", unit="image") as bar:
        for x_0, keys, count in images:
            nats.append(np.asarray(log_prob(run.params, x_0, keys))[:count])
            bar.update(count)
    total = density_to_bits_per_dim(np.concatenate(nats).astype(np.float64), run.shape)
    return {
        "bits_per_dim": float(total.mean()),
        "standard_error": standard_error(total),
        "trace": "exact" if exact else "hutchinson",
        "num_steps": len(transitions.beta),
    }


def power_spectra(run, images, *, num_steps):
    """Band power of x_t along the forward and the reverse chain, and when each band of x_0's estimate settles."""
    chain, schedule = run.chain(num_steps), build.noise_schedule(run.config)
    clean = np.concatenate([np.asarray(spectrum.band_power(x_0))[:count] for x_0, _, count in images]).mean(0)
    with progress_bar(chain.num_moves, "spectrum", unit="move") as bar:
        indices = np.arange(min(images.num_images, 256))
        frames = chain(run.params, jax.random.key(0), indices=indices, num_frames=50, progress=bar.update)
    times = chain.frame_times(len(frames))
    denoiser = run.denoiser()
    estimate = jax.jit(lambda params, x_t, level: jnp.mean(spectrum.band_power(denoiser(params)(x_t, level).x_0), 0))
    estimates = [estimate(run.params, x, schedule.level(t)) for t, x in zip(times[:-1], frames[:-1], strict=True)]
    reverse = np.stack([np.asarray(spectrum.band_power(x)).mean(0) for x in frames])
    estimates = np.stack([*map(np.asarray, estimates), reverse[-1]])
    forward = spectrum.forward_power(clean[None], jax.tree.map(lambda a: a[:, None], schedule.level(times)))
    return {
        "times": times.tolist(),
        "data": clean.tolist(),
        "forward": np.asarray(forward).tolist(),
        "reverse": reverse.tolist(),
        "estimate_of_x_0": estimates.tolist(),
        "settling_time": spectrum.settling_time(times, estimates).tolist(),
    }


METRICS = {"bpd": bound, "nll": exact_likelihood, "spectrum": power_spectra}


def evaluate(run, metrics, *, source, num_images, num_steps=0, batch_size=100):
    """Measures a run and writes `WORKDIR/evaluation/METRIC.json` and `METRIC.png`.

    Args:
      run: `Run`.
      metrics: names in `METRICS`.
      source: images to measure on.
      num_images: how many of them.
      num_steps: of the chain or solver; 0 for each metric's default.
      batch_size: images at a time.

    Returns:
      `{metric: result}`.
    """
    folder, results = Path(run.workdir) / "evaluation", {}
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
    images = Images(source, num_images=num_images, batch_size=batch_size, mesh=run.mesh)
    for name in metrics:
        result = METRICS[name](run, images, num_steps=num_steps)
        result = {"step": run.step, "params": run.params_name, "num_images": images.num_images, **result}
        write_whole(folder / f"{name}.json", lambda path, r=result: path.write_text(json.dumps(r, indent=1)))
        if name in plots.PLOTS:
            write_whole(folder / f"{name}.png", partial(plots.PLOTS[name], result))
        results[name] = result
    return results


def standard_error(values):
    """Standard error of a mean, 0 for one value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def table(results):
    """The lines that a person reads."""
    lines = []
    for name, result in results.items():
        if name == "bpd":
            lines += [
                f"bound          {result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim",
                f"  L_T          {result['L_T']:.3g}",
                f"  L_(t-1) sum  {result['L_between']:.4f}   ({len(result['terms']) - 1} terms)",
                f"  L_0          {result['L_0']:.4f}",
            ]
        elif name == "nll":
            lines.append(
                f"ODE likelihood {result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim "
                f"({result['trace']} trace, {result['num_steps']} steps)"
            )
        else:
            settled = ", ".join(f"{k}: {t:g}" for k, t in enumerate(result["settling_time"]))
            lines.append(f"spectrum       band: time at which it settles  {settled}")
    return lines

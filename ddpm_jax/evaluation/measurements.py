"""The measurements of a run: each is a function from an opened run and images to the content of a JSON file.

Read next: `diffusion/likelihood.py`, `diffusion/spectrum.py`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import factory
from ddpm_jax.diffusion import spectrum, timesteps
from ddpm_jax.diffusion.arrays import noise_like, stream
from ddpm_jax.diffusion.bayes import predictive_log_prob, uncertainty
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.likelihood import (
    bits_per_dim,
    bound_terms,
    density_to_bits_per_dim,
    exact_trace,
    hutchinson_trace,
    ode_bound_nats,
    ode_log_prob_nats,
    prior_term_nats,
)
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.images import Images
from ddpm_jax.metrics.calibration import expected_calibration_error, reliability
from ddpm_jax.runs.chain import IndexedTransitions, pieces
from ddpm_jax.runtime.devices import replicated, split, to_host
from ddpm_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

_NUM_FRAMES = 50  # frames of the chain, for spectra
_EXACT_TRACE_DIMS = 256  # components up to which the trace of the Jacobian is computed exactly


def bound(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """Bits per dimension by the variational bound, split by term; `num_steps` 0 takes the whole chain."""
    transitions = factory.sampling_transitions(run.config, num_steps)
    num_steps, denoiser, variance = transitions.num_steps, run.denoiser(), factory.variance(run.config)
    cdf = factory.decoder(run.config)
    whole, cut = replicated(run.mesh), split(run.mesh)

    def piece_terms(
        params: chex.ArrayTree, x_0: jax.Array, label: jax.Array, keys: jax.Array, indexed: IndexedTransitions
    ) -> dict[str, jax.Array]:
        return bound_terms(denoiser(params, label), x_0, keys, indexed=indexed, variance=variance, cdf=cdf)

    piece_terms = jax.jit(piece_terms, in_shardings=(whole, cut, cut, cut, whole), out_shardings=whole)
    prior_level = factory.noise_schedule(run.config).level(run.config.diffusion.num_timesteps)
    nats, mse, prior = [], [], []
    with progress_bar(len(images) * num_steps, "bound", unit="step") as bar:
        for x_0, label, keys, count in images:
            terms = []
            for indexed in pieces((np.arange(num_steps), _float32(transitions))):
                terms.append(jax.device_get(piece_terms(run.params, x_0, label, keys, indexed)))
                bar.update(len(indexed[0]))
            nats.append(np.concatenate([t["nats"] for t in terms])[:, :count])
            mse.append(np.concatenate([t["eps_mse"] for t in terms])[:, :count])
            prior.append(to_host(prior_term_nats(x_0, prior_level))[:count])
    nats, mse, prior = np.concatenate(nats, 1).astype(np.float64), np.concatenate(mse, 1), np.concatenate(prior)
    bpd = partial(bits_per_dim, shape=run.shape)
    return {
        **_mean(bpd(nats.sum(0) + prior)),
        "L_T": float(bpd(prior.mean())),
        "L_between": float(bpd(nats[:-1].sum(0).mean())),
        "L_0": float(bpd(nats[-1].mean())),
        "variance": variance.value,
        "decoder": run.config.sample.decoder,
        "times": np.asarray(transitions.now.t).tolist(),
        "terms": bpd(nats.mean(1)).tolist(),
        "eps_mse": mse.mean(1).tolist(),
    }


def exact_likelihood(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """Bits per dimension by the probability-flow ODE, from t = 1 to T in `num_steps` steps; 0 takes 200.

    They are measured on images dequantised by uniform noise, as in publications, and by the noise of t = 1
    (`ode_bound_nats`), for the comparison with the bound. The denoiser is that of the sampler, clipped where that is.

    Raises:
      UserError: the schedule cannot have so many steps.
    """
    schedule = factory.noise_schedule(run.config)
    try:
        times = timesteps.log_snr(schedule, 1 + (num_steps or min(200, schedule.num_timesteps - 1)))[:-1]
        encoding = _float32(schedule.encoding(times))
    except ValueError as error:
        raise UserError(f"cannot solve the ODE in {num_steps} steps between t = 1 and T: {error}") from error
    exact, denoiser = math.prod(run.shape) <= _EXACT_TRACE_DIMS, run.denoiser()
    last = jax.tree.map(lambda leaf: leaf[-1], _float32(schedule.transitions()))

    def both_nats(
        params: chex.ArrayTree, x_0: jax.Array, label: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        noise, probe, x_1 = (stream(keys, name) for name in ("dequantise", "probe", "x_1"))
        noise = jax.vmap(lambda k: jax.random.uniform(k, run.shape, minval=-1, maxval=1))(noise) / 255
        trace = exact_trace
        if not exact:
            trace = hutchinson_trace(jax.vmap(lambda k: jax.random.rademacher(k, run.shape, jnp.float32))(probe))
        flow = {"trace": trace, "variance": factory.variance(run.config), "last": last, "encoding": encoding}
        log_prob = ode_log_prob_nats(denoiser(params, label), x_0 + noise, transitions=encoding, trace=trace)
        return log_prob, ode_bound_nats(denoiser(params, label), x_0, x_1, **flow)

    whole, cut = replicated(run.mesh), split(run.mesh)
    both_nats = jax.jit(both_nats, in_shardings=(whole, cut, cut, cut), out_shardings=whole)
    nats = []
    with progress_bar(images.num_images, "likelihood", unit="image") as bar:
        for x_0, label, keys, count in images.in_batches_of(8):
            nats.append(np.stack(both_nats(run.params, x_0, label, keys)).astype(np.float64)[:, :count])
            bar.update(count)
    log_prob, bound_nats = np.concatenate(nats, axis=1)
    return {
        **_mean(density_to_bits_per_dim(log_prob, run.shape)),
        "with_decoder": _mean(bits_per_dim(bound_nats, run.shape)),
        "trace": "exact" if exact else "hutchinson",
        "num_steps": encoding.num_steps,
    }


def power_spectra(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """Band power of x_t along the forward and the reverse chain, and when each band of the estimate of x_0 settles."""
    chain, schedule = run.chain(num_steps), factory.noise_schedule(run.config)
    clean = np.concatenate([to_host(spectrum.band_power(x_0))[:count] for x_0, _, _, count in images]).mean(0)
    with progress_bar(chain.num_steps, "spectrum", unit="step") as bar:
        indices = np.arange(min(images.num_images, 256))
        frames = chain.frames(
            run.params, jax.random.key(0), indices=indices, num_frames=_NUM_FRAMES, progress=bar.update
        )
    times = frames.times
    reverse, estimates = (np.stack([np.asarray(spectrum.band_power(x)).mean(0) for x in xs]) for xs in frames[1:3])
    forward = spectrum.forward_power(clean[None], jax.tree.map(lambda a: a[:, None], schedule.level(times)))
    return {
        "times": times.tolist(),
        "data": clean.tolist(),
        "forward": np.asarray(forward).tolist(),
        "reverse": reverse.tolist(),
        "estimate_of_x_0": estimates.tolist(),
        "settling_time": spectrum.settling_time(times, estimates).tolist(),
    }


def accuracy(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """The accuracy of a classifier on clean images and at `num_steps` noise levels from 1 to T (0 for 21 of them)."""
    schedule = factory.noise_schedule(run.config)
    times = np.linspace(1, schedule.num_timesteps, num_steps or 21)
    samples = factory.classifier_samples(run.config, run.model)
    at_level = jax.jit(lambda params, x_t, level: samples(params)(x_t, level))
    log_probs, label = [], []
    with progress_bar(len(images) * (len(times) + 1), "accuracy", unit="noise level") as bar:
        for x_0, y, keys, count in images:
            eps = noise_like(keys, x_0)
            noisy = [
                (x_0, schedule.level(1)),
                *((q_sample(x_0, eps, level), level) for level in map(schedule.level, times)),
            ]
            rows = []
            for x_t, level in noisy:
                rows.append(
                    to_host(at_level(run.params, x_t, jax.tree.map(np.float32, level))).astype(np.float64)[:, :count]
                )
                bar.update(1)
            log_probs.append(np.stack(rows))
            label.append(to_host(y)[:count])
    log_probs, label = np.concatenate(log_probs, axis=2), np.concatenate(label)  # [levels, S, N, K], [N]
    mean = np.asarray(jax.vmap(predictive_log_prob)(log_probs))
    right = mean.argmax(-1) == label
    of_class = [right[0][label == k] for k in range(mean.shape[-1])]
    return {
        "accuracy": float(right[0].mean()),
        "accuracy_by_class": [float(of.mean()) if of.size else None for of in of_class],
        "class_names": list(images.class_names or run.class_names),
        "nll_nats": float(-mean[0, np.arange(len(label)), label].mean()),
        "calibration_error": expected_calibration_error(np.exp(mean[0]), label),
        "calibration": {key: bins.tolist() for key, bins in reliability(np.exp(mean[0]), label)._asdict().items()},
        "mutual_information_nats": float(uncertainty(log_probs[0]).mutual_information.mean()),
        "times": times.tolist(),
        "accuracy_by_t": right[1:].mean(1).tolist(),
        "nll_nats_by_t": (-mean[1:, np.arange(len(label)), label]).mean(1).tolist(),
    }


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """The standard error of the mean of the values `[N]`; 0 for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _mean(bits: np.ndarray) -> dict[str, float]:
    """The mean of bits per dimension `[N]`, and its standard error."""
    return {"bits_per_dim": float(bits.mean()), "standard_error": standard_error(bits)}


def _float32(transitions: Transition) -> Transition:
    """The transitions in float32 on the host, as the compiled programs take them."""
    return jax.tree.map(partial(np.asarray, dtype=np.float32), transitions)

"""The likelihood of images under a run in bits per dimension: by the variational bound, and by the ODE.

Read next: `diffusion/likelihood.py`, `diffusion/ode_likelihood.py`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import factory
from ddpm_jax.diffusion.arrays import noise_like, stream
from ddpm_jax.diffusion.likelihood import bits_per_dim, bound_terms, density_to_bits_per_dim, prior_term_nats
from ddpm_jax.diffusion.ode_likelihood import (
    Estimate,
    OdeSteps,
    dequantised,
    exact_trace,
    hutchinson_trace,
    ode_bound,
    ode_log_prob,
    ode_steps,
)
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.images import Images
from ddpm_jax.runs.chain import IndexedTransitions, pieces
from ddpm_jax.runtime.devices import replicated, split, to_host
from ddpm_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

_EXACT_TRACE_DIMS = 256  # components up to which the trace of the Jacobian is computed exactly
_NUM_PROBES = 4  # random directions per image by which it is estimated above
_NUM_STEPS = 12  # of the ODE
_NUM_IMAGES = 8  # at a time, each from two starting points

Steps = TypeVar("Steps", Transition, OdeSteps)


def bound(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """Bits per dimension by the variational bound, split by term; `num_steps` 0 takes the whole chain."""
    transitions = run.transitions(num_steps)
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
    """Bits per dimension by the probability-flow ODE, from t = 1 to T in `num_steps` steps; 0 takes 12.

    They are measured on images dequantised by uniform noise, as in publications, and by the noise of t = 1
    (`ode_bound`), for the comparison with the bound. The denoiser is that of the sampler, clipped where that is.

    Raises:
      UserError: the ODE cannot be solved in so many steps.
    """
    try:
        steps = _float32(ode_steps(factory.noise_schedule(run.config), num_steps or _NUM_STEPS))
    except ValueError as error:
        raise UserError(f"cannot solve the ODE in {num_steps or _NUM_STEPS} steps: {error}") from error
    estimates_of, found = _compiled_estimates(run, steps), []
    with progress_bar(images.num_images, "likelihood", unit="image") as bar:
        for *batch, count in images.in_batches_of(_NUM_IMAGES):
            estimates = jax.device_get(estimates_of(run.params, *batch))
            found.append(jax.tree.map(lambda leaf, count=count: leaf[:count], estimates))
            bar.update(count)
    uniform, decoded = jax.tree.map(lambda *leaves: np.concatenate(leaves).astype(np.float64), *found)
    return {
        **_with_errors(density_to_bits_per_dim(uniform.nats, run.shape), uniform, run.shape),
        "with_decoder": _with_errors(bits_per_dim(decoded.nats, run.shape), decoded, run.shape),
        "trace": "exact" if _has_exact_trace(run) else "hutchinson",
        "num_probes": 0 if _has_exact_trace(run) else _NUM_PROBES,
        "num_steps": steps.num_steps,
    }


def _compiled_estimates(run: "Run", steps: OdeSteps) -> jax.stages.Wrapped:
    """The compiled function `(params, x_0, label, keys) -> (log p, bound)`, two `Estimate`s.

    The first is of images dequantised by uniform noise, the second by `ode_bound`. Each device computes those of its
    own images, so that nothing crosses devices.
    """
    schedule, denoiser = factory.noise_schedule(run.config), run.denoiser()
    last = jax.tree.map(lambda leaf: leaf[-1], _float32(schedule.transitions()))

    def estimates(
        params: chex.ArrayTree, x_0: jax.Array, label: jax.Array, keys: jax.Array
    ) -> tuple[Estimate, Estimate]:
        noise, probe, x_1 = (stream(keys, name) for name in ("dequantise", "probe", "x_1"))
        noise = jax.vmap(lambda k: jax.random.uniform(k, run.shape, minval=-1, maxval=1))(noise) / 255
        eps = noise_like(x_1, x_0)
        starts, twice = jnp.concatenate([x_0 + noise, dequantised(x_0, eps, last)]), jnp.concatenate([label, label])
        probes = _probes(jnp.concatenate([probe, probe]), run.shape)
        trace = exact_trace if _has_exact_trace(run) else hutchinson_trace(probes)
        both = ode_log_prob(denoiser(params, twice), starts, steps=steps, trace=trace)
        uniform, noisy = (Estimate(*halves) for halves in zip(*(jnp.split(leaf, 2) for leaf in both), strict=True))
        options = {"last": last, "variance": factory.variance(run.config)}
        return uniform, ode_bound(denoiser(params, label), x_0, eps, noisy, **options)

    whole, cut = replicated(run.mesh), split(run.mesh)
    specs = {"in_specs": (whole.spec, cut.spec, cut.spec, cut.spec), "out_specs": cut.spec, "check_vma": False}
    return jax.jit(jax.shard_map(estimates, mesh=run.mesh, **specs), out_shardings=whole)


def _has_exact_trace(run: "Run") -> bool:
    """Whether the images of a run are so small that the trace of the Jacobian is computed exactly."""
    return math.prod(run.shape) <= _EXACT_TRACE_DIMS


def _probes(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random signs `[K, B, ...]`, K directions for each of `[B]` keys."""
    signs = jax.vmap(lambda key: jax.random.rademacher(key, (_NUM_PROBES, *shape), jnp.float32))(keys)
    return jnp.moveaxis(signs, 1, 0)


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """The standard error of the mean of the values `[N]`; 0 for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _mean(bits: np.ndarray) -> dict[str, float]:
    """The mean of bits per dimension `[N]`, and its standard error."""
    return {"bits_per_dim": float(bits.mean()), "standard_error": standard_error(bits)}


def _with_errors(bits: np.ndarray, estimate: Estimate, shape: tuple[int, ...]) -> dict[str, float]:
    """The mean of bits per dimension `[N]` and its standard error, with the errors of the estimate in the same unit.

    Those of the solver may have the same sign for all images, so their mean is taken; those of the trace are
    independent.
    """
    solver, trace = (bits_per_dim(error, shape) for error in (estimate.solver_error, estimate.trace_error))
    return {
        **_mean(bits),
        "solver_error": float(np.mean(solver)),
        "trace_error": float(np.sqrt(np.sum(trace**2)) / len(trace)),
    }


def _float32(steps: Steps) -> Steps:
    """The steps in float32 on the host, as the compiled programs take them."""
    return jax.tree.map(partial(np.asarray, dtype=np.float32), steps)

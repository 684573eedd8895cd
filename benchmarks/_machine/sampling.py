"""Drawing images with CIFAR-10's network: one evaluation, the chain against as many of them, and DDIM."""

import time

import chex
import jax
import jax.numpy as jnp
import numpy as np

from _machine.clock import median_seconds
from _machine.job import Job
from _machine.steps import config_of
from ddpm_jax import factory
from ddpm_jax.runs.chain import Chain
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import device_mesh, replicated, split


def measure(job: Job) -> None:
    """Adds the rows in one type, and in the other if there is time."""
    for dtype in job.dtypes:
        begin = time.time()
        _measure(job, dtype)
        if job.left() < time.time() - begin:
            job.note(f"no time was left after {dtype}")
            break


def _measure(job: Job, dtype: str) -> None:
    batch, moves = (4, 10) if job.small else (100, 1000)
    config, mesh = config_of("cifar10", dtype=dtype, batch_size=batch), device_mesh(jax.devices()[:1])
    model = factory.network(config)
    params = jax.jit(factory.initial_params(config, model), out_shardings=replicated(mesh))(jax.random.key(0))
    forward = jax.jit(lambda params, x, t: model.apply({"params": params}, x, t))
    x, t = (jax.device_put(a, split(mesh)) for a in (jnp.zeros((batch, 32, 32, 3)), jnp.zeros(batch)))
    evaluation = median_seconds(lambda: forward(params, x, t), window=0.0 if job.small else 0.3, windows=3)
    job.add(f"{dtype}, one evaluation", batch=batch, seconds=evaluation, **{"images/s": batch / evaluation})

    config.sample.num_steps = moves
    chain = chain_of(config, model, num_steps=moves, mesh=mesh)
    seconds = _drawn(chain, params, batch)
    whole, ratio = seconds * 1000 / moves, seconds / (moves * evaluation)
    how = "" if moves == 1000 else f" (from {moves})"
    columns = {"images/s": batch / whole, "over as many evaluations": ratio}
    job.add(f"{dtype}, chain of 1,000 moves{how}", batch=batch, seconds=whole, **columns)
    if job.left() < seconds:
        return
    config.sample.sampler, moves = "ddim", 10 if job.small else 50
    seconds = _drawn(chain_of(config, model, num_steps=moves, mesh=mesh), params, batch) * 50 / moves
    columns = {"images/s": batch / seconds, "over as many evaluations": seconds / (50 * evaluation)}
    job.add(f"{dtype}, DDIM, 50 moves", batch=batch, seconds=seconds, **columns)


def _drawn(chain: Chain, params: chex.ArrayTree, batch: int) -> float:
    """Seconds of a whole chain, without the time to compile it."""
    key, indices = jax.random.key(0), np.arange(batch)
    chain(params, key, indices=indices)
    begin = time.perf_counter()
    chain(params, key, indices=indices)
    return time.perf_counter() - begin

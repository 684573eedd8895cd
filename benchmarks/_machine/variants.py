"""The train step in other forms, each against the default in the same process."""

from collections.abc import Callable
from functools import partial
from unittest import mock

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from _machine.clock import median_seconds
from _machine.job import Job
from _machine.steps import Objective, Step, config_of, with_objective
from ddpm_jax.training.step import Examples

OTHER_NETWORKS = ("celeba", "imagenet64")


def measure(job: Job) -> None:
    """Adds a row for each form for which there is time."""
    batch = 4 if job.small else 128
    cifar = partial(config_of, "cifar10", dtype="bfloat16", batch_size=batch)
    default = _seconds(job, Step(cifar()))
    job.add(f"cifar10, bfloat16, batch {batch}", **_columns(batch, default))
    plan: list[tuple[str, Callable[[], Step], int]] = [
        ("rbg keys for dropout", lambda: Step(cifar(), change=with_objective(_rbg_dropout)), batch),
        ("no dropout", lambda: Step(cifar(**{"model.dropout": 0.0})), batch),
        ("cuDNN attention", lambda: _with_cudnn_attention(cifar()), batch),
        ("recomputed activations", lambda: Step(cifar(**{"model.remat": True})), batch),
    ]
    plan += [(f"batch {n}", partial(_cifar_of, n), n) for n in ((2,) if job.small else (64, 256))]
    for name in OTHER_NETWORKS:
        size = 1 if job.small else 64
        plan.append((f"{name}, batch {size}", partial(_of, name, size), size))
    slowest = default
    for what, make, size in plan:
        if job.left() < 1.5 * slowest:
            job.note(f"no time was left for {what} and the variants after it")
            return
        begin = job.left()
        try:
            step = make()
            seconds = _seconds(job, step)
        except Exception as error:
            job.note(f"{what}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        finally:
            slowest = max(slowest, begin - job.left())
        ratio = {"ms an image over the default": seconds / size / (default / batch)}
        if what.startswith(OTHER_NETWORKS):
            ratio = {}
        job.add(what, **_columns(size, seconds), **ratio, **{"memory GiB": step.memory()})


def _columns(batch: int, seconds: float) -> dict[str, object]:
    return {"ms/step": 1000 * seconds, "images/s": batch / seconds}


def _seconds(job: Job, step: Step) -> float:
    return median_seconds(step, window=0.0 if job.small else 0.4, windows=3)


def _cifar_of(batch: int) -> Step:
    return Step(config_of("cifar10", dtype="bfloat16", batch_size=batch))


def _of(name: str, batch: int) -> Step:
    return Step(config_of(name, dtype="bfloat16", batch_size=batch, **{"train.accumulation": 1}))


def _with_cudnn_attention(config: ConfigDict) -> Step:
    attention = partial(jax.nn.dot_product_attention, implementation="cudnn")
    with mock.patch("jax.nn.dot_product_attention", attention):
        return Step(config)


def _rbg_dropout(objective: Objective) -> Objective:
    """The objective with a dropout that draws its bits from the device's own generator."""

    def changed(params: chex.ArrayTree, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        data = jnp.tile(jax.random.key_data(key), 2)
        return objective(params, examples, jax.random.wrap_key_data(data, impl="rbg"))

    return changed

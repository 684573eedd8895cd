"""Whether a step diverged: decided inside the compiled step, from its metrics and those of the steps before it.

A step that diverged is passed over: the step number advances, and parameters, average and optimiser stay as they were.
Read next: `step.py`.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

WINDOW = 101
"""The number of earlier steps with which a step is compared: odd, so that their median is the number of one of them."""


class Recent(flax.struct.PyTreeNode):
    """What a run remembers of its latest steps.

    Attributes:
      loss: float32 `[WINDOW]`, the losses of the latest steps that were taken; that of step n of them is at
        `n % WINDOW`.
      grad_norm: float32 `[WINDOW]`, the norms of their gradients.
      taken: int32 `[]`, the number of steps that were taken and not passed over.
      passed_over: int32 `[]`, the number of steps that were passed over.
    """

    loss: jax.Array
    grad_norm: jax.Array
    taken: jax.Array
    passed_over: jax.Array


def no_steps() -> Recent:
    """Returns the memory of a run at step 0; no two leaves share their memory, which a step consumes."""
    loss, grad_norm = jnp.zeros(WINDOW), jnp.zeros(WINDOW)
    return Recent(loss, grad_norm, taken=jnp.zeros((), jnp.int32), passed_over=jnp.zeros((), jnp.int32))


def with_step(recent: Recent, metrics: Mapping[str, Any]) -> Recent:
    """Returns the memory after a step that was taken, with these metrics, of which "loss" and "grad_norm" are `[]`."""
    place = recent.taken % WINDOW
    return recent.replace(
        loss=recent.loss.at[place].set(metrics["loss"].astype(jnp.float32)),
        grad_norm=recent.grad_norm.at[place].set(metrics["grad_norm"].astype(jnp.float32)),
        taken=recent.taken + 1,
    )


def stands_out(value: jax.Array, earlier: jax.Array, *, threshold: float) -> jax.Array:
    """Whether a number is far above earlier ones: by more than `threshold` times their median absolute deviation.

    Both the median and the deviation ignore a few numbers of any size, so an earlier outlier hides no later one, and
    they suit numbers of any sign and scale.

    Args:
      value: `[]`.
      earlier: `[N]`.
      threshold: the number of deviations.
    """
    middle = jnp.median(earlier)
    return value - middle > threshold * jnp.median(jnp.abs(earlier - middle))


def diverged(metrics: Mapping[str, Any], recent: Recent, *, threshold: float) -> jax.Array:
    """Whether a step diverged, a boolean `[]`.

    It did if one of its metrics is not finite; and, where the threshold is above 0, if its loss or the norm of its
    gradient stands out from those of the last `WINDOW` steps, once there are so many.

    Args:
      metrics: a tree of arrays, of which "loss" and "grad_norm" are `[]`.
      recent: what is remembered of the steps before.
      threshold: as for `stands_out`; 0 to compare nothing.
    """
    found = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(metrics)]))
    if not threshold:
        return found
    of_loss = stands_out(metrics["loss"], recent.loss, threshold=threshold)
    of_norm = stands_out(metrics["grad_norm"], recent.grad_norm, threshold=threshold)
    return found | ((recent.taken >= WINDOW) & (of_loss | of_norm))

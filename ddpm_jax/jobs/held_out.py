"""The loss on held-out images: a measure of the training loop, beside the training loss in the log.

If a network begins to remember its images, its loss on them falls further and that on held-out images rises.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import factory
from ddpm_jax.config import distils
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.arrays import image_keys, stream
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.runtime.devices import global_batch, own_rows, replicated
from ddpm_jax.training.loop import due
from ddpm_jax.training.state import Teacher, TrainState
from ddpm_jax.training.step import Batch, Examples, Objective, TrainSpec, augment, by_quarter, draw_examples

NUM_EXAMPLES = 256
"""Held-out images in one measurement, rounded up to whole batches; fewer are taken several times, with other noise."""

Draw: TypeAlias = Callable[[Batch, jax.Array, jax.Array], Examples]
"""A function `(batch, key, step)` to the examples of a batch of held-out images, for the step `[]` that is measured."""


def held_out_loss(
    config: ConfigDict,
    model: nn.Module,
    source: Source | None,
    mesh: Mesh,
    *,
    num_images: int | None,
    loss: Loss | None,
) -> "list[HeldOutLoss]":
    """The measure of the loss on the held-out images of a run, or none.

    Args:
      config, model, num_images, loss: as for `factory.objective`.
      source: the held-out images, or None.
      mesh: the devices.
    """
    if source is None or not config.log.held_out_every:
        return []
    objective = factory.objective(config, model, num_images=num_images, loss=loss, train=False)
    if not distils(config):
        return [HeldOutLoss(config, objective, source, mesh)]
    spec = factory.train_spec(config, model, num_images=num_images, loss=loss)
    return [HeldOutLoss(config, objective, source, mesh, draw=partial(draw_taught, replace(spec, random_flip=False)))]


class HeldOutLoss:
    """Measures every term of the objective on a fixed set of held-out images, with the averaged parameters.

    Example i has always the same image, noise and time: its key is derived from the root key and i, and the four
    quarters of t have the same number of examples. So two measurements differ by the parameters alone. Those of a
    student differ also by its stage and its teacher, which are those of the last step, and its examples are drawn batch
    by batch as in its training (`draw_taught`): they are the same as long as the size of a batch is.

    Args:
      config: configuration of the run.
      objective: its `Objective`, without dropout.
      source: the held-out images.
      mesh: the devices.
      draw: the `Draw`; None for `draw_fixed`.
    """

    def __init__(
        self, config: ConfigDict, objective: Objective, source: Source, mesh: Mesh, *, draw: Draw | None = None
    ) -> None:
        self._every, self._log_every = config.log.held_out_every, config.log.every
        size = config.train.batch_size // config.train.accumulation
        self._batches = [_batch(source, np.arange(start, start + size), mesh) for start in range(0, NUM_EXAMPLES, size)]
        key = stream(jax.random.key(config.seed), "held_out")
        transitions = factory.noise_schedule(config).transitions()

        def sums(
            params: chex.ArrayTree, teacher: Teacher | tuple[()], step: jax.Array, batch: Batch
        ) -> Mapping[str, Mapping[str, jax.Array] | jax.Array]:
            examples = draw_fixed(transitions, batch, key) if draw is None else draw(batch, key, step - 1)
            taught_by = {"teacher": teacher} if isinstance(teacher, Teacher) else {}
            terms = objective(params, examples, stream(key, "dropout"), **taught_by)
            return by_quarter(terms, examples, num_timesteps=transitions.num_steps)

        self._sums: Callable[..., Mapping[str, Mapping[str, jax.Array]]] = jax.jit(sums, out_shardings=replicated(mesh))

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """The means `held_out_TERM`, and by quarter of t `held_out_TERM_t1` to `_t4`, if they are due."""
        if not due(step, self._every, log_every=self._log_every):
            return {}
        of_state = partial(self._sums, state.ema_params, state.teacher, state.step)
        parts = jax.device_get([of_state(batch) for batch in self._batches])
        counts, measured = np.asarray([part["quarter_count"] for part in parts], np.float64).sum(axis=0), {}
        for name in sorted(parts[0]["quarter_sums"]):
            sums = np.asarray([part["quarter_sums"][name] for part in parts], np.float64).sum(axis=0)
            means = {f"_t{i + 1}": sums[i] / counts[i] for i in range(4) if counts[i]}
            means[""] = sums.sum() / counts.sum()
            measured |= {f"held_out_{name}{quarter}": float(mean) for quarter, mean in means.items()}
        return measured


def draw_fixed(transitions: Transition, batch: Batch, key: jax.Array) -> Examples:
    """The examples of a batch, whose times and noise depend on the key and each example's index alone.

    Example i has its time in the quarter of t of number i modulo 4, uniform there.

    Args:
      transitions: all T transitions, leaves `[T]`.
      batch: `{"image": uint8 [B, H, W, C], "label": int32 [B], "index": int32 [B]}`.
      key: a key `[]`.
    """
    num, index = transitions.num_steps, batch["index"]
    keys = image_keys(key, index)
    place = (index % 4 + jax.vmap(jax.random.uniform)(stream(keys, "time"))) / 4
    times = jnp.clip(jnp.floor(num * place).astype(jnp.int32) + 1, 1, num)
    transition = jax.tree.map(lambda leaf: jnp.asarray(leaf)[num - times], transitions)
    x_0 = augment(batch["image"], keys, random_flip=False)
    weight = jnp.ones(len(index))
    return Examples(x_0, batch["label"], stream(keys, "noise"), stream(keys, "label"), transition, weight)


def draw_taught(spec: TrainSpec, batch: Batch, key: jax.Array, step: jax.Array) -> Examples:
    """The examples of a student in the stage of a step, at times as its training draws them, always from the same key.

    A curriculum may pair the times of neighbours, so those that `draw_fixed` arranges are none that a student learns.

    Args:
      spec: the `TrainSpec` of the student, without flips.
      batch: as for `draw_fixed`.
      key: a key `[]`.
      step: the number of the step `[]`, from 0.
    """
    own = jax.random.fold_in(key, batch["index"][0])
    return draw_examples(spec, batch, own, times_state=spec.times.init(), step=step)


def _batch(source: Source, examples: np.ndarray, mesh: Mesh) -> Batch:
    """Examples of these numbers, on the devices; their images are evenly spaced over the source, in turn."""
    own = examples[own_rows(mesh, len(examples))]
    num = min(NUM_EXAMPLES, len(source))
    found = [source[int(i)] for i in own % num * len(source) // num]
    images, labels = (np.stack([example[name] for example in found]) for name in ("image", "label"))
    return global_batch(mesh, {"image": images, "label": labels, "index": own.astype(np.int32)})

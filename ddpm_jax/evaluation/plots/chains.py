"""Chains of numbers over time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule
from ddpm_jax.evaluation.plots.style import COLOURS, Axes


def history(
    axes: Axes,
    log_prob: Callable[[jax.Array, NoiseLevel], jax.Array],
    schedule: NoiseSchedule,
    *,
    extent: float,
    num: int = 201,
) -> None:
    """Fills a panel with the density of noisy numbers, scaled to a maximum of 1 at every t, from T at the left to 0.

    Args:
      axes: a panel.
      log_prob: function `(x_t [N, 1], level)` to the log density `[N]`.
      schedule: `NoiseSchedule`.
      extent: the panel shows x_t from -extent to extent.
      num: number of points along each axis.
    """
    line = jnp.linspace(-extent, extent, num)[:, None]
    levels = schedule.level(np.linspace(schedule.num_timesteps, 1, num))
    values = jax.vmap(lambda level: jnp.exp(log_prob(line, level)))(jax.tree.map(jnp.asarray, levels))
    values = np.asarray(values / values.max(axis=1, keepdims=True)).T
    sides = (schedule.num_timesteps, 0, -extent, extent)
    axes.imshow(values, origin="lower", extent=sides, cmap="Blues", aspect="auto", vmin=0, interpolation="bilinear")
    axes.set(xlabel="t", ylabel="x_t")
    axes.grid(visible=False)


def paths(axes: Axes, times: ArrayLike, xs: ArrayLike) -> None:
    """Draws B chains of numbers `[F, B]` over their times `[F]`; chains with the same start have the same colour."""
    xs = np.asarray(xs)
    starts = sorted(set(xs[0].tolist()))
    for b in range(xs.shape[1]):
        colour = COLOURS[1:][starts.index(xs[0, b].item()) % (len(COLOURS) - 1)]
        axes.plot(times, xs[:, b], color=colour, linewidth=0.8)

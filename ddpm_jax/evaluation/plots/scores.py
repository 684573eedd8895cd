"""Scores as arrows in the plane: of single clean points and of their average, and samples over densities."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.plots.fields import density, plane
from ddpm_jax.evaluation.plots.style import COLOURS, INK, Axes


def contours(axes: Axes, log_prob: Callable[[jax.Array], jax.Array], *, extent: float, num: int = 101) -> None:
    """Fills a panel with eight pale shades of `exp(log_prob(x))`, a function of points `[N, 2]`, under other marks."""
    line = np.linspace(-extent, extent, num)
    values = np.exp(np.asarray(log_prob(jnp.asarray(plane(extent, num=num))))).reshape(num, num)
    axes.contourf(line, line, values / values.max(), levels=8, cmap="Blues", vmin=0, vmax=2.2)
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])


def weighted_arrows(axes: Axes, start: ArrayLike, ends: ArrayLike, weights: ArrayLike) -> None:
    """Draws thin arrows from one point `[2]` to many `[N, 2]`, the darker the greater its weight `[N]`.

    Their weighted mean is one thick arrow; the weights sum to 1. The labels are those of the score: the ends are clean
    points times `sqrt(alpha_bar_t)`.
    """
    start, ends, weights = np.asarray(start), np.asarray(ends), np.asarray(weights)
    share = weights / weights.max()
    pale = {"color": "white", "markeredgecolor": "#777777", "markersize": 4, "zorder": 2}
    axes.plot([], [], "o", color=INK, markersize=6, label="x_t")
    axes.plot(
        [], [], "o-", color=COLOURS[0], label="clean points times sqrt(alpha_bar_t), the darker the more probable"
    )
    axes.plot(*ends.T, "o", **pale, label="those of negligible weight")
    axes.plot([], [], color=COLOURS[1], linewidth=2.8, label="their average: the score times sigma squared")
    for end, strength in zip(ends, share, strict=True):
        if strength > 0.02:
            axes.plot(*np.stack([start, end]).T, color=COLOURS[0], alpha=float(0.15 + 0.75 * strength), linewidth=1.2)
            axes.plot(*end, "o", color=COLOURS[0], markersize=float(3 + 5 * strength), zorder=3)
    arrow = {"arrowstyle": "-|>", "color": COLOURS[1], "linewidth": 2.8, "shrinkA": 0, "shrinkB": 0}
    (x, y), (u, v) = start, weights @ ends
    axes.annotate("", (u, v), (x, y), arrowprops=arrow, zorder=5)
    axes.plot(*start, "o", color=INK, markersize=6, zorder=6)


def dots(
    axes: Axes,
    points: ArrayLike,
    log_prob: Callable[[jax.Array], jax.Array],
    *,
    extent: float,
    color: str = COLOURS[1],
) -> None:
    """Draws samples `[N, 2]` as dots over the density `exp(log_prob(x))`; those beyond the extent are crosses."""
    density(axes, log_prob, extent=extent)
    points = np.asarray(points)
    beyond = np.abs(points).max(axis=1) > extent
    axes.plot(*points[~beyond].T, ".", markersize=3, color=color, alpha=0.7)
    axes.plot(*np.clip(points[beyond], -0.97 * extent, 0.97 * extent).T, "x", markersize=6, color=color)


def costs(axes: Axes, times: ArrayLike, nats: Mapping[str, ArrayLike], *, num_classes: int = 10) -> None:
    """Draws the mean of `-log p(y | x_t)` of named classifiers, each `[F]` in nats, over the times `[F]`.

    A grey line marks the cost of a guess among all classes.
    """
    for (name, values), marker in zip(nats.items(), "os^D", strict=False):
        axes.semilogy(np.asarray(times), np.asarray(values), f"{marker}-", markersize=4, label=f"classifier {name}")
    axes.axhline(np.log(num_classes), color="grey", linewidth=0.8, label="a guess")
    axes.set(xlabel="t", ylabel="-log p(y | x_t), in nats")
    axes.legend()

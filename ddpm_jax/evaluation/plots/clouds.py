"""Points over the density from which they are drawn, kernels beside their mean, and errors beside their order."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.errors import one_line
from ddpm_jax.evaluation.plots.fields import density
from ddpm_jax.evaluation.plots.style import COLOURS, INK, Axes, Picture, panels

Density = Callable[[jax.Array], jax.Array]
"""A function from points `[N, D]` to their log densities `[N]`."""


def cloud(axes: Axes, points: ArrayLike, log_prob: Density, *, extent: float, colour: str = COLOURS[1]) -> None:
    """Draws points `[N, 2]` over a density of the plane, the smaller the more there are.

    Args:
      axes: a panel, which shows x from -extent to extent in both directions.
      points: the points; those outside the panel are not drawn.
      log_prob: log density of points `[N, 2]`, drawn the darker the more probable.
      extent: half the side of the panel.
      colour: of the points.
    """
    points = np.asarray(points)
    density(axes, log_prob, extent=extent)
    axes.spines[:].set(visible=True, linewidth=0.5)
    axes.grid(visible=False)
    size = float(np.clip(75 / np.sqrt(len(points)), 2.5, 6))
    axes.plot(*points.T, ".", markersize=size, markeredgewidth=0, color=colour, alpha=0.8)


def clouds(
    points: Sequence[ArrayLike],
    log_probs: Sequence[Density],
    *,
    titles: Sequence[str],
    rows: Sequence[str] = (),
    columns: int | None = None,
    extent: float = 2.5,
    size: float = 2.1,
) -> Picture:
    """Panels row by row, each with points `[N, 2]` over a density of the plane.

    Args:
      points: for each panel its points.
      log_probs: for each panel its log density, as in `cloud`.
      titles: a title over each panel, or one over each column.
      rows: a name at the left of each row, or () for none.
      columns: number of columns; as many as titles unless given.
      extent: the panels show x from -extent to extent.
      size: side of a panel, in inches.
    """
    columns = columns or len(titles)
    lines = 1 + max(title.count("\n") for title in titles)
    figure, axes = panels(columns, -(-len(points) // columns), width=size, height=size + 0.16 * lines)
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.04)
    for i, (panel, xs, log_prob) in enumerate(zip(axes, points, log_probs, strict=True)):
        cloud(panel, xs, log_prob, extent=extent)
        if i < len(titles):
            panel.set_title("\n".join(map(one_line, titles[i].split("\n"))), fontsize=9)
        if rows and i % columns == 0:
            panel.set_ylabel(one_line(rows[i // columns]), fontsize=9)
    return figure


def kernels(axes: Axes, points: ArrayLike, *, signal: float, sigma: float, extent: float, num: int = 801) -> None:
    """Draws the kernels `N(x; signal x_0, sigma**2) / N` of N numbers x_0, and their sum, the density of noisy data.

    Args:
      axes: a panel.
      points: the data x_0 `[N]`; a triangle below the axis shows `signal x_0`.
      signal, sigma: scales of data and noise, sigma above 0.
      extent: the panel shows x from -extent to extent.
      num: number of points of each curve.
    """
    centres, line = signal * np.asarray(points), np.linspace(-extent, extent, num)
    heights = np.exp(-0.5 * ((line - centres[:, None]) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi) * len(centres))
    for i, (centre, height) in enumerate(zip(centres, heights, strict=True)):
        colour = COLOURS[i % (len(COLOURS) - 1)]
        axes.fill_between(line, height, color=colour, alpha=0.25, linewidth=0)
        axes.plot(line, height, color=colour, linewidth=1)
        axes.plot(centre, 0, "^", color=colour, markersize=6, clip_on=False, zorder=3)
    axes.plot([], [], "^", color="grey", markersize=6, label="sqrt(alpha_bar_t) x_0")
    axes.plot([], [], color="grey", linewidth=1, label="kernel of one x_0")
    axes.plot(line, heights.sum(axis=0), color=INK, linewidth=1.5, label="their sum, the density of x_t")
    axes.set(xlim=(-extent, extent), ylim=(0, 1.05 * heights.sum(axis=0).max()), yticks=[])
    axes.grid(visible=False)


def histogram(axes: Axes, numbers: ArrayLike, log_prob: Density, *, extent: float, bins: int = 60) -> None:
    """Draws the histogram of numbers `[N]` as a density, and over it the curve of a density of numbers `[N, 1]`."""
    line = np.linspace(-extent, extent, 401)
    axes.hist(np.asarray(numbers), bins=bins, range=(-extent, extent), density=True, color=COLOURS[5], alpha=0.6)
    axes.plot(line, np.exp(np.asarray(log_prob(jnp.asarray(line)[:, None]))), color=INK, linewidth=1.5)
    axes.set(xlim=(-extent, extent), yticks=[])
    axes.grid(visible=False)


def errors(axes: Axes, sizes: ArrayLike, values: ArrayLike, *, order: float, label: str) -> None:
    """Draws errors `[N]` over step sizes `[N]` on logarithmic axes, beside a line of the order through the first."""
    sizes, values = np.asarray(sizes), np.asarray(values)
    axes.loglog(sizes, values[0] * (sizes / sizes[0]) ** order, "--", color=INK, label=f"order {order:g}")
    axes.loglog(sizes, values, "o", color=COLOURS[1], label=label)
    axes.minorticks_off()
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.legend()


def fan(axes: Axes, times: ArrayLike, xs: ArrayLike, *, groups: ArrayLike) -> None:
    """Draws B chains of numbers `[F, B]` over their times `[F]`; chains of the same group `[B]` have one colour."""
    xs, groups = np.asarray(xs), np.asarray(groups)
    names = sorted(set(groups.tolist()))
    for b in range(xs.shape[1]):
        colour = COLOURS[1 + names.index(groups[b].item()) % (len(COLOURS) - 1)]
        axes.plot(times, xs[:, b], color=colour, linewidth=1.2, alpha=0.9)

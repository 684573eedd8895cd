"""What a noisy image leaves open: curves on a line, arrows between points, and the images that it may come from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.errors import one_line
from ddpm_jax.evaluation.plots.style import COLOURS, Axes, Picture, panels
from ddpm_jax.runtime.images import to_uint8

CURVES = (("-", 1.2), ("-", 1.2), ("-", 3.0), ("--", 1.4), (":", 1.6), ("-.", 1.2))
COLOUR_OF_CURVE = (COLOURS[5], COLOURS[4], COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3])


def densities(axes: Axes, x: ArrayLike, ys: Mapping[str, ArrayLike], **labels: str) -> None:
    """Draws positive functions of `x` `[N]`, each with a colour and a line of its own, and a legend above them.

    Args:
      axes: a panel.
      x: `[N]`.
      ys: up to six names and their values `[N]`; the third is wide and the fourth dashed, to compare the two.
      labels: arguments of `Axes.set`, such as `title` and `xlabel`.
    """
    for (name, y), (line, width), colour in zip(ys.items(), CURVES, COLOUR_OF_CURVE, strict=False):
        axes.plot(x, y, line, linewidth=width, color=colour, label=name)
    axes.set(ylim=(0, 1.35 * max(np.asarray(y).max() for y in ys.values())), **labels)
    axes.legend(fontsize=7, loc="upper center", ncols=2)


def displacements(
    axes: Axes, start: ArrayLike, end: ArrayLike, *, colour: str = COLOURS[1], label: str | None = None
) -> None:
    """Draws an arrow from each point of the plane to another, both `[N, 2]`, and a dot where it starts."""
    start, end = np.asarray(start), np.asarray(end)
    axes.plot(*start.T, ".", color=COLOURS[6], markersize=5, zorder=3)
    options = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.008, "zorder": 2}
    axes.quiver(*start.T, *(end - start).T, color=colour, label=label, **options)


def circles(axes: Axes, centre: ArrayLike, radii: Mapping[str, float], *, name: str) -> None:
    """Draws a star at a point `[2]`, called `name`, and circles around it, given as names and radii."""
    angle = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([np.cos(angle), np.sin(angle)])
    for (ring_name, radius), line, colour in zip(radii.items(), ("--", "-", ":"), COLOURS, strict=False):
        x, y = np.asarray(centre)[:, None] + radius * ring
        axes.plot(x, y, line, color=colour, linewidth=1.2, label=ring_name)
    axes.plot(
        *np.asarray(centre), "*", color=COLOURS[4], markeredgecolor=COLOURS[6], markersize=12, zorder=4, label=name
    )


def candidates(
    x_t: ArrayLike,
    mean: ArrayLike,
    points: ArrayLike,
    log_prob: ArrayLike,
    *,
    rows: Sequence[str],
    names: Sequence[str],
    num: int = 5,
) -> Picture:
    """Noisy images beside the posterior mean and the likeliest clean images, each with its probability and its name.

    Args:
      x_t: `[R, H, W, K]` noisy images, one per row.
      mean: `[R, H, W, K]`, `E[x_0 | x_t]`.
      points: `[N, H, W, K]`, the images of the data.
      log_prob: `[R, N]`, `log q(points[i] | x_t)`; `perplexity` of a row is written beside it.
      rows: R names, such as "t = 500".
      names: N names of the images, such as "class 3".
      num: how many of the likeliest images are drawn.
    """
    x_t, mean, points = to_uint8(x_t), to_uint8(mean), to_uint8(points)
    log_prob = np.asarray(log_prob)
    figure, axes = panels(2 + num, len(rows), width=0.95, height=1.13)
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02)
    for r, panel_row in enumerate(axes.reshape(len(rows), 2 + num)):
        likeliest = np.argsort(-log_prob[r])[:num]
        images = [x_t[r], mean[r], *points[likeliest]]
        under = ["", "", *(f"{_percent(np.exp(log_prob[r, i]))}, {names[i]}" for i in likeliest)]
        for panel, image, text in zip(panel_row, images, under, strict=True):
            panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            panel.set_xlabel(one_line(text), fontsize=7, labelpad=2)
            panel.grid(visible=False)
            panel.spines[:].set_visible(False)
        beside = f"{one_line(rows[r])}\nperplexity\n{_count(float(perplexity(log_prob[r])))}"
        panel_row[0].set_ylabel(beside, fontsize=8, rotation=0, ha="right", va="center")
    titles = ["x_t", "E[x_0 | x_t]", "likeliest", *map(_ordinal, range(2, num + 1))]
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(title, fontsize=8)
    return figure


def perplexity(log_prob: ArrayLike) -> np.ndarray:
    """`exp(-sum_i p_i log p_i)` of log probabilities `[..., N]`: the number of equally likely outcomes."""
    log_prob = np.asarray(log_prob, np.float64)
    return np.exp(-np.sum(np.exp(log_prob) * np.maximum(log_prob, -1e9), axis=-1))


def _percent(probability: float) -> str:
    """A probability as a percentage with one or two digits."""
    return f"{100 * probability:.0f}%" if probability >= 0.1 else f"{100 * probability:.1f}%"


def _count(number: float) -> str:
    """A number with two digits after the point if it is small, and with a comma for the thousands if it is large."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _ordinal(number: int) -> str:
    """2 as "2nd", and so on."""
    return f"{number}{ {2: 'nd', 3: 'rd'}.get(number, 'th') }"

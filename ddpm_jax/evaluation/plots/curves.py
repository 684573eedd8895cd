"""Curves and bars of named values in one panel."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.plots.style import COLOURS, INK, Axes

_DASHES = ("-", "--", "-.", ":")


def lines(axes: Axes, x: ArrayLike, ys: Mapping[str, ArrayLike], *, legend: bool = True, **labels: Any) -> None:
    """Draws named curves over common places, which differ in colour and in dashes, with a legend.

    Args:
      axes: a panel.
      x: the places `[N]`.
      ys: `{name: values [N]}`.
      legend: whether to draw one, where it hides least.
      labels: what `Axes.set` takes, such as `xlabel="t"`, `title="..."`, `yscale="log"`.
    """
    for i, (name, y) in enumerate(ys.items()):
        axes.plot(x, y, _DASHES[i % len(_DASHES)], color=COLOURS[i % len(COLOURS)], label=name)
    axes.set(**labels)
    if legend:
        axes.legend()


def parabola(
    axes: Axes, x: ArrayLike, coefficients: Sequence[float], *, colour: str, label: str, reach: float = 0.15
) -> None:
    """Draws `c_0 + c_1 x + c_2 x**2` at x `[N]` with its tangent at x = 0, from -reach to reach, and a mark there."""
    first, slope, bend = coefficients
    x, near = np.asarray(x), np.array([-reach, reach])
    axes.plot(x, first + slope * x + bend * x**2, color=colour, label=label)
    axes.plot(near, first + slope * near, color=INK, linewidth=1.5, zorder=3)
    axes.plot(0, first, "o", color=INK, markersize=5, zorder=3)


def bars(axes: Axes, values: Mapping[str, float], *, digits: int = 2, **labels: Any) -> None:
    """Draws a bar for each named value, with the value above it.

    Args:
      axes: a panel.
      values: `{name: value}`.
      digits: the number of decimals that are written.
      labels: what `Axes.set` takes.
    """
    drawn = axes.bar(list(values), list(values.values()), color=COLOURS[: len(values)], width=0.6)
    axes.bar_label(drawn, fmt=f"%.{digits}f", padding=2)
    axes.margins(y=0.12)
    axes.set(**labels)
    axes.grid(visible=False, axis="x")

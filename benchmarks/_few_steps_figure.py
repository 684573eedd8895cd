"""The figure of `few_steps.py`: the quality against the evaluations, and samples from the same noise."""

from collections.abc import Mapping

import numpy as np
from _few_steps_table import QUALITIES, Rows, of, places
from matplotlib.axes import Axes

from ddpm_jax.evaluation.plots import COLOURS, Picture, legend_below, panels

STRIPS = (
    ("Heun", 200),
    ("DPM-Solver++(2M)", 8),
    ("DDIM", 4),
    ("consistency", 4),
    ("progressive", 4),
    ("progressive", 1),
    ("mean flow", 1),
    ("DDIM", 1),
)
"""The samples that are shown, if they were measured."""
STUDENTS = ("progressive", "consistency", "mean flow")


def figure(rows: Rows, samples: Mapping[tuple[str, int], np.ndarray]) -> Picture:
    """The curves of all methods; below them rows of samples.

    Args:
      rows: what was measured.
      samples: by method and number of evaluations, images `[N, H, W, 1]` in 0..255 from the same noise.
    """
    picture, axes = panels(3, 2 if samples else 1, width=4.2, height=3.4)
    for axis, name in zip(axes, ("fd", "precision", "recall"), strict=False):
        _curves(axis, rows, name)
    if samples:
        grid = axes[3].get_gridspec()
        for axis in axes[3:]:
            axis.remove()
        _tiles(picture.add_subplot(grid[1, :]), samples)
    return legend_below(picture, axes[0], columns=5)


def _curves(axis: Axes, rows: Rows, name: str) -> None:
    """A quality against the evaluations: means over the seeds, in bands that reach over them."""
    for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        counts = [evaluations for known, evaluations in places(rows) if known == method]
        values = [of(rows, method, count, name) for count in counts]
        colour, student = COLOURS[i % len(COLOURS)], method in STUDENTS
        style = {"color": colour, "linestyle": ("-", "--")[i // len(COLOURS) % 2], "linewidth": 2.5 if student else 1}
        axis.plot(
            counts, [np.mean(value) for value in values], marker="os"[student], markersize=4, label=method, **style
        )
        low, high = ([edge(value) for value in values] for edge in (np.min, np.max))
        axis.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
    ticks = sorted({row["evaluations"] for row in rows})
    axis.set(xscale="log", xlabel="evaluations of the network per image", title=QUALITIES[name])
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    if name == "fd":
        axis.set(yscale="log")


def _tiles(axis: Axes, samples: Mapping[tuple[str, int], np.ndarray]) -> None:
    """Rows of samples, each with its name."""
    side = next(iter(samples.values())).shape[1] + 1
    lines = [np.pad(images[..., 0], ((0, 0), (0, 1), (0, 1)), constant_values=255) for images in samples.values()]
    axis.imshow(np.concatenate([np.concatenate([*line], axis=1) for line in lines]), cmap="gray", vmin=0, vmax=255)
    names = [f"{method}, {count:,}" for method, count in samples]
    axis.set_yticks(side * np.arange(len(names)) + side / 2 - 1, names)
    axis.set(xticks=[], title="samples from the same noise, not selected: method, evaluations")
    axis.title.set_fontsize(10)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)

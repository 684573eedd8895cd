"""Samples with words: by class, along the chain, completed; and what their quality and their class cost."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.bayes import Uncertainty
from ddpm_jax.errors import one_line
from ddpm_jax.evaluation.plots.style import INK, Axes, Picture, legend_below, panels
from ddpm_jax.runtime.captions import hatched
from ddpm_jax.runtime.images import to_uint8

QUALITY = ("precision: quality", "recall: diversity", "Frechet distance: both")
"""The titles of `by_steps`."""


def labelled(images: ArrayLike, names: Sequence[object], *, columns: int = 8, size: float = 0.8) -> Picture:
    """Images `[N, H, W, K]`, uint8 or in [-1, 1], row by row, each below its name.

    Args:
      images: the images, with K = 1 or 3 channels.
      names: N names, such as classes.
      columns: images in a row.
      size: side of an image, in inches.
    """
    images = _bytes(images)
    columns = min(columns, len(images))
    figure, axes = _tiles(columns, -(-len(images) // columns), size)
    for panel, image, name in zip(axes, images, names, strict=False):
        _show(panel, image, str(name))
    return figure


def chain_strip(times: ArrayLike, x: ArrayLike, x_0: ArrayLike, *, size: float = 0.85) -> Picture:
    """Chains of B images at F times, each in two rows: the noisy image x_t, and below it the estimate of x_0.

    Args:
      times: `[F]`.
      x: the noisy images, `[F, B, H, W, K]` in [-1, 1] and beyond it.
      x_0: the estimates of x_0 from them, likewise; `Run.trajectory` returns all three.
      size: side of an image, in inches.
    """
    times, pair = np.asarray(times), np.stack([_bytes(x), _bytes(x_0)])
    rows = pair.transpose(2, 0, 1, *range(3, pair.ndim)).reshape(-1, *pair.shape[3:])
    figure, axes = _tiles(len(times), 2 * pair.shape[2], size)
    for i, (panel, image) in enumerate(zip(axes, rows, strict=True)):
        row, column = divmod(i, len(times))
        _show(panel, image, f"t = {times[column]:g}" if row == 0 else "")
        if column == 0:
            panel.set_ylabel(("x_t", "estimate\nof x_0")[row % 2], fontsize=8, rotation=0, ha="right", va="center")
    return figure


def inpainting(original: ArrayLike, known: ArrayLike, results: ArrayLike, *, columns: int = 6) -> Picture:
    """An image, what of it was given, with the unknown part hatched, and completions of it.

    Args:
      original: `[H, W, K]`, uint8 or in [-1, 1].
      known: 1 where the image is given and 0 where it is drawn, `[H, W, 1]`.
      results: N completions, `[N, H, W, K]`, uint8 or in [-1, 1].
      columns: completions in a row.
    """
    image, completions = _bytes(original), _bytes(results)
    columns = min(columns, len(completions))
    figure, axes = _tiles(2 + columns, -(-len(completions) // columns), 0.85)
    _show(axes[0], image, "original")
    _show(axes[1], hatched(image, np.asarray(known)), "given")
    for i, completion in enumerate(completions):
        row, column = divmod(i, columns)
        _show(axes[row * (2 + columns) + 2 + column], completion, f"result {i + 1}")
    return figure


def by_steps(results: Mapping[str, Mapping[int, Sequence[float]]], titles: Sequence[str] = QUALITY) -> Picture:
    """Measures of samplers over the number of steps, a panel for each measure and a line for each sampler.

    Args:
      results: for each name the measures of each number of steps, in the order of the titles.
      titles: titles of the panels; the axis of a measure that is at most 1 everywhere ends there.
    """
    figure, axes = panels(len(titles), width=3.2)
    for i, (panel, title) in enumerate(zip(axes, titles, strict=True)):
        for name, rows in results.items():
            panel.semilogx(list(rows), [row[i] for row in rows.values()], "o-", label=name)
        steps = sorted({steps for rows in results.values() for steps in rows})
        panel.minorticks_off()
        panel.set_xticks(steps, [f"{s:,}" for s in steps])
        most = max(row[i] for rows in results.values() for row in rows.values())
        panel.set(xlabel="steps", title=title, ylim=(0, 1.04 if most <= 1 else 1.08 * most))
    legend_below(figure, axes[0])
    return figure


def guidance_costs(curves: Mapping[str, ArrayLike]) -> Picture:
    """What a guidance scale brings and costs: agreement with the class, precision over recall, Frechet distance.

    Args:
      curves: for each method of guidance the rows (scale, agreement, precision, recall, Frechet distance), `[N, 5]`.
    """
    figure, (asked, trade, both) = panels(3, width=3.5, height=3.2)
    rows = {name: np.asarray(curve) for name, curve in curves.items()}
    offsets = free_places([curve[:, [3, 2]] for curve in rows.values()])
    for (name, curve), places in zip(rows.items(), offsets, strict=True):
        scale, agreement, precision, recall, distance = curve.T
        asked.plot(scale, agreement, "o-", label=name)
        (line,) = trade.plot(recall, precision, "o-")
        both.plot(scale, distance, "o-")
        words = {"color": line.get_color(), "fontsize": 8, "ha": "center", "va": "center"}
        for x, y, value, place in zip(recall, precision, scale, places, strict=True):
            trade.annotate(f"{value:g}", (x, y), xytext=place, textcoords="offset points", **words)
    trade.margins(0.12)
    asked.set(xlabel="scale", ylabel="share of the samples", title="they show the class asked for", ylim=(0, 1.04))
    trade.set(xlabel="recall: diversity", ylabel="precision: quality", title="each point has its scale")
    both.set(xlabel="scale", ylabel="Frechet distance", title="distance from the data", ylim=(0, None))
    legend_below(figure, asked)
    return figure


def uncertainty(measured: Mapping[str, Uncertainty], *, bins: int = 30) -> Picture:
    """The distributions of a classifier's uncertainty on sets of images: entropy, and its part that is of the weights.

    Args:
      measured: `bayes.uncertainty` for each set, with leaves `[N]`.
      bins: number of bins of the histograms.
    """
    figure, axes = panels(2, width=4.4)
    titles = ("entropy of the prediction", "mutual information with the weights")
    for panel, key, title in zip(axes, ("predictive_entropy", "mutual_information"), titles, strict=True):
        values = {name: np.asarray(getattr(u, key)) for name, u in measured.items()}
        edges = np.linspace(0, max(1e-6, *(v.max() for v in values.values())), bins + 1)
        for name, v in values.items():
            panel.hist(v, bins=edges, histtype="step", linewidth=1.5, density=True, label=name)
        panel.set(xlabel="nats", ylabel="density", yscale="log", title=title)
    legend_below(figure, axes[0])
    return figure


def entropy_over_time(times: ArrayLike, measured: Sequence[Uncertainty], *, num_classes: int) -> Picture:
    """The mean entropy of a classifier's predictions of noisy images over t, and the part that is not of the weights.

    Args:
      times: `[F]`.
      measured: `bayes.uncertainty` at each time, with leaves `[N]`.
      num_classes: number of classes, whose logarithm is the entropy of a uniform guess.
    """
    figure, (panel,) = panels(1, width=5.6, height=3.2)
    panel.axhline(np.log(num_classes), color="grey", linewidth=0.8, label=f"a uniform guess: log {num_classes}")
    panel.plot(times, [u.predictive_entropy.mean() for u in measured], "o-", label="entropy of the prediction")
    panel.plot(times, [u.expected_entropy.mean() for u in measured], "s--", label="expected entropy, weights given")
    panel.set(xlabel="t", ylabel="nats", title="uncertainty of the class of a noisy image", ylim=(0, None))
    panel.legend(loc="lower right")
    return figure


def free_places(lines: Sequence[np.ndarray], *, far: float = 10) -> list[np.ndarray]:
    """Where words beside the points of lines `[N, 2]` are farthest from all lines: offsets `[N, 2]`, in points."""
    every = np.concatenate(lines)
    size = np.array([180, 130]) / np.maximum(np.ptp(every, axis=0), 1e-9)  # of a panel, in points
    scaled = [line * size for line in lines]
    fractions = np.linspace(0, 1, 50)[:, None, None]
    drawn = np.concatenate([((1 - fractions) * a[:-1] + fractions * a[1:]).reshape(-1, 2) for a in scaled if len(a) > 1]
                           or scaled)  # fmt: skip
    angles = np.arange(16) * np.pi / 8
    around = far * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    chosen = []
    for line in scaled:
        places = line[:, None] + around
        free = np.linalg.norm(places[:, :, None] - drawn, axis=-1).min(axis=-1)
        chosen.append(around[free.argmax(axis=1)])
    return chosen


def _bytes(images: ArrayLike) -> np.ndarray:
    """Images of any shape, uint8 or in [-1, 1], as uint8."""
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else to_uint8(images)


def _tiles(columns: int, rows: int, size: float) -> tuple[Picture, np.ndarray]:
    """A figure of panels for images, all of them empty and without a frame, and their axes `[rows * columns]`."""
    figure, axes = panels(columns, rows, width=size, height=size + 0.2)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    for panel in axes:
        panel.axis("off")
    return figure, axes


def _show(panel: Axes, image: np.ndarray, name: str) -> None:
    """One image `[H, W, K]` uint8 in a panel, below its name."""
    panel.axis("on")
    panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.set_title(one_line(name), fontsize=8, color=INK)

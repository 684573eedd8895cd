"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays, opaque and dark on white, whatever the style of the
page and of the notebook; none touches pyplot or any global setting. The functions that take `axes` draw into one panel
of a figure from `panels`. The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule
from ddpm_jax.errors import one_line
from ddpm_jax.runtime.images import from_uint8, to_uint8
from ddpm_jax.runtime.quiet import with_matplotlib_folder

with with_matplotlib_folder():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK = "#222222"
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#DDDDDD",
    "legend.fontsize": 8,
    "savefig.facecolor": "white",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


class Picture(Figure):
    """A figure without a display, which a notebook shows as a PNG."""

    def savefig(self, fname: str | os.PathLike[str] | IO[bytes], **options: Any) -> None:
        """Writes the figure in the project's style; the suffix of the path gives the format."""
        with mpl.rc_context(STYLE):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """The figure as a PNG."""
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png")
        # A palette is a third of the size, and a notebook keeps every picture that it has shown.
        Image.open(drawn).convert("RGB").quantize(128).save(small, format="PNG", optimize=True)
        return small.getvalue()


def panels(
    columns: int, rows: int = 1, *, width: float = 3.6, height: float = 3.0, **options: Any
) -> tuple[Picture, np.ndarray]:
    """A figure of empty panels, and their axes `[rows * columns]`, row by row.

    Args:
      columns, rows: number of columns and rows.
      width, height: size of a panel, in inches.
      options: arguments of `Figure.subplots`, such as `sharey=True`.
    """
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(width * columns, height * rows))
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
        return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def svg_panels(figure: Picture, *, salt: str) -> list[str]:
    """The panels of a figure as SVG files of their own, each with its legend, transparent, with text as text.

    Args:
      figure: the figure; a title over all panels is left out.
      salt: a word from which the identifiers in the files are made, so that they are the same every time.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.suptitle("")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the panels stay where they are while the others are hidden
        boxes = [panel.get_tightbbox() or panel.bbox for panel in figure.axes]
        files = []
        for chosen, box in zip(figure.axes, boxes, strict=True):
            for panel in figure.axes:
                panel.set_visible(panel is chosen)
            chosen.set_facecolor("none")
            file, inches = io.BytesIO(), box.padded(3).transformed(figure.dpi_scale_trans.inverted())
            figure.savefig(file, format="svg", facecolor="none", bbox_inches=inches)
            files.append(file.getvalue().decode())
    return files


def strips(images: ArrayLike, *, columns: Sequence[str] = (), rows: Sequence[str] = (), size: float = 0.9) -> Picture:
    """Images `[R, C, H, W, K]` in [-1, 1] in R rows, with a title over each column and a name beside each row.

    Args:
      images: the images, with K = 1 or 3 channels.
      columns: C titles, or () for none.
      rows: R names, or () for none.
      size: side of an image, in inches.
    """
    images = to_uint8(images)
    num_rows, num_columns = images.shape[:2]
    figure, axes = panels(num_columns, num_rows, width=size, height=size + (0.2 if columns else 0) / num_rows)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    for i, panel in enumerate(axes):
        row, column = divmod(i, num_columns)
        panel.imshow(images[row, column].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        if row == 0 and columns:
            panel.set_title(one_line(columns[column]), fontsize=8)
        if column == 0 and rows:
            panel.set_ylabel(one_line(rows[row]), fontsize=8, rotation=0, ha="right", va="center")
    return figure


def plane(extent: float, *, num: int = 101) -> np.ndarray:
    """A square grid of points of the plane, `[num * num, 2]` float32, from -extent to extent."""
    line = np.linspace(-extent, extent, num, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def density(axes: Axes, log_prob: Callable[[jax.Array], jax.Array], *, extent: float, num: int = 101) -> None:
    """Fills a panel with `exp(log_prob(x))`, a function of points `[N, 2]`, the darker the more probable."""
    values = np.exp(np.asarray(log_prob(jnp.asarray(plane(extent, num=num))))).reshape(num, num)
    axes.imshow(values, origin="lower", extent=(-extent, extent) * 2, cmap="Blues", vmin=0, interpolation="bilinear")
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])


def arrows(axes: Axes, gradient: Callable[[jax.Array], jax.Array], *, extent: float, num: int = 15) -> None:
    """Draws a vector field, a function from points `[N, 2]` to vectors `[N, 2]`; the longest arrow is one cell long."""
    points = plane(0.93 * extent, num=num)
    field = np.asarray(gradient(jnp.asarray(points)))
    field = field / np.sqrt(
        np.linalg.norm(field, axis=1, keepdims=True) + 1e-6
    )  # roots of the lengths, so that short arrows are visible
    scale = np.linalg.norm(field, axis=1).max() * num / (2 * extent)
    axes.quiver(*points.T, *field.T, color=_INK, angles="xy", scale_units="xy", scale=scale, width=0.004)


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


def loss(lines: Sequence[Mapping[str, Any]]) -> Picture:
    """The loss of a run, for a classifier with the accuracy beside it, from the lines of its log (`log.read_log`)."""
    keys = [key for key in ("loss", "accuracy") if key in lines[-1]]
    figure, axes = panels(len(keys), width=7.2 / len(keys), height=2.6)
    steps = [line["step"] for line in lines]
    for panel, key in zip(axes, keys, strict=True):
        for i in range(1, 5):
            quarter = [line.get(f"{key}_t{i}", np.nan) for line in lines]
            panel.plot(steps, quarter, color=_colour((i - 1) / 3), linewidth=0.8, label=f"quarter {i} of t")
        panel.plot(steps, [line[key] for line in lines], color=_INK, label="all t")
        if held_out := [(line["step"], line[f"held_out_{key}"]) for line in lines if f"held_out_{key}" in line]:
            panel.plot(*zip(*held_out, strict=True), "o-", color=COLOURS[1], markersize=3, label="held out, all t")
        panel.set(xlabel="step", ylabel=key, yscale="log" if key == "loss" else "linear")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    last = lines[-1]
    figure.suptitle(f"step {last['step']:,}, loss {last['loss']:.3f}, {last['images_per_s']:,.0f} images/s", fontsize=9)
    return figure


def held_out(lines: Sequence[Mapping[str, Any]]) -> Picture:
    """The loss of a run on its training images and on those held out, from the lines of its log (`log.read_log`)."""
    figure, (panel,) = panels(1, width=4.5)
    for key, name in (("loss", "training images"), ("held_out_loss", "images held out")):
        known = [line for line in lines if line.get(key) is not None]
        panel.plot([line["step"] for line in known], [line[key] for line in known], label=name)
    panel.set(xlabel="step", ylabel="loss", yscale="log")
    panel.legend()
    return figure


def live_loss() -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """A function for the argument `watch` of `train`: it draws `loss` in a notebook and updates the plot in place."""
    from IPython.display import display

    shown = []

    def watch(lines: Sequence[Mapping[str, Any]]) -> None:
        if shown:
            shown[0].update(loss(lines))
        else:
            shown.append(display(loss(lines), display_id=True))

    return watch


def bound(result: Mapping[str, Any]) -> Picture:
    """The terms of the bound and the error of the noise over t, from the result of the metric "bpd"."""
    figure, (terms, error) = panels(2, width=4.5)
    times = result["times"]
    terms.loglog(times, result["terms"])
    terms.set(xlabel="t", ylabel="bits/dim", title=f"terms of the bound, sum {result['bits_per_dim']:.3f}")
    error.semilogy(times, result["eps_mse"])
    error.set(xlabel="t", ylabel="mean squared error of eps", title="error of the noise")
    return figure


def spectrum(result: Mapping[str, Any]) -> Picture:
    """Band power along the forward and the reverse chain, and of the estimate of x_0, whose low bands settle first."""
    figure, (forward, reverse, settling) = panels(3, width=3.9, height=3.3)
    times, bands = np.array(result["times"]), np.arange(len(result["data"]))
    shown = np.linspace(0, len(times) - 1, 7).astype(int)
    for axes, key, title in ((forward, "forward", "x_t, forward"), (reverse, "reverse", "x_t, reverse chain")):
        for i in shown:
            axes.semilogy(bands, result[key][i], label=f"t = {times[i]:g}", color=_colour(i / (len(times) - 1)))
        axes.set(xlabel="periods across the image", ylabel="power", title=title)
        axes.legend(fontsize=7)
    share = np.array(result["estimate_of_x_0"]) / np.array(result["estimate_of_x_0"])[-1]
    for k in bands:
        settling.plot(times, share[:, k], label=f"band {k}", color=_colour(k / max(1, bands[-1])))
    settling.axhline(0.5, color="grey", linewidth=0.8)
    settling.invert_xaxis()
    settling.set(xlabel="t", ylabel="share of the final power", title="estimate of x_0, by band", ylim=(0, 1.5))
    settling.legend(fontsize=7)
    return figure


def accuracy(result: Mapping[str, Any]) -> Picture:
    """The accuracy and the negative log-likelihood of a classifier over t."""
    figure, (right, nats) = panels(2, width=4.5)
    right.plot(result["times"], result["accuracy_by_t"])
    right.axhline(result["accuracy"], color="grey", linewidth=0.8, label=f"clean images: {result['accuracy']:.3f}")
    right.set(xlabel="t", ylabel="accuracy", title="accuracy on noisy images", ylim=(0, 1.02))
    right.legend(fontsize=7)
    nats.plot(result["times"], result["nll_nats_by_t"])
    nats.set(xlabel="t", ylabel="nats", title="-log p(y | x_t)")
    return figure


def nearest_pairs(result: Mapping[str, Any], pictures: np.ndarray, *, columns: int) -> Picture:
    """Samples, each above its nearest training image, the nearest pair first, from the result of "memorisation".

    Args:
      result: the result.
      pictures: the K samples and their training images, uint8 `[2, K, H, W, C]`; K is a multiple of `columns`, or less.
      columns: pairs in a row.
    """
    columns = min(columns, pictures.shape[1])
    rows = pictures.reshape(2, -1, columns, *pictures.shape[2:]).swapaxes(0, 1)
    names = ["sample", "nearest"] * len(rows)
    figure = strips(from_uint8(rows.reshape(-1, *rows.shape[2:])), rows=names)
    figure.suptitle(f"samples and their nearest training images, ratio of distances {result['value']:.2f}", fontsize=9)
    return figure


def calibration(result: Mapping[str, Any]) -> Picture:
    """The accuracy of a classifier in bins of its confidence on clean images, from the result of "accuracy"."""
    figure, (panel,) = panels(1, width=4.5)
    bins = result["calibration"]
    panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="calibrated")
    shown = [i for i, count in enumerate(bins["count"]) if count]
    x, y, count = (np.array(bins[key])[shown] for key in ("confidence", "accuracy", "count"))
    panel.scatter(x, y, s=12 + 150 * count / count.sum(), zorder=3, clip_on=False, label="bin, by number of images")
    panel.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), title="calibration")
    panel.legend(loc="upper left")
    return figure


def _colour(fraction: float) -> tuple[float, float, float, float]:
    """The colour (RGBA) at a fraction in [0, 1] of a colour map from dark to light, without its lightest part."""
    return mpl.colormaps["viridis"](0.85 * fraction)

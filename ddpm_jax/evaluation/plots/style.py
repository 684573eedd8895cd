"""The style of every plot: colours, panels, and figures that a notebook displays.

A figure is opaque and dark on white, whatever the style of the page and of the notebook; none touches pyplot or any
global setting. The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

import io
import os
from typing import IO, Any

import numpy as np
from PIL import Image

from ddpm_jax.runtime.quiet import with_matplotlib_folder

with with_matplotlib_folder():
    import matplotlib as mpl
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.rcsetup import cycler
    from matplotlib.text import Text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#222222"
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#DDDDDD",
    "legend.fontsize": 8,
    "savefig.facecolor": "white",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Panel(Axes):
    """A panel whose title and legend have the sizes of `STYLE`, whenever they are set."""

    def set_title(self, *args: Any, **options: Any) -> Text:
        """Sets the title, as `Axes.set_title` does."""
        with mpl.rc_context(STYLE):
            return super().set_title(*args, **options)

    def legend(self, *args: Any, **options: Any) -> Legend:
        """Draws the legend, as `Axes.legend` does."""
        with mpl.rc_context(STYLE):
            return super().legend(*args, **options)


class Picture(Figure):
    """A figure without a display, which a notebook shows as a PNG."""

    def legend(self, *args: Any, **options: Any) -> Legend:
        """Draws a legend of all panels, as `Figure.legend` does, in the size of `STYLE`."""
        with mpl.rc_context(STYLE):
            return super().legend(*args, **options)

    def savefig(self, fname: str | os.PathLike[str] | IO[bytes], **options: Any) -> None:
        """Writes the figure in the project's style; the suffix of the path gives the format."""
        with mpl.rc_context(STYLE):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """The figure as a PNG."""
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png")
        # A palette is a third of the size, and a notebook keeps every picture that it has shown. This method keeps
        # colours that are rare, such as those of a few arrows over a smooth density.
        picture = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
        picture.save(small, format="PNG", optimize=True)
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
        options["subplot_kw"] = {"axes_class": Panel, **options.get("subplot_kw", {})}
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


def colour(fraction: float, name: str = "viridis") -> tuple[float, float, float, float]:
    """The colour (RGBA) at a fraction in [0, 1] of a colour map from dark to light, without its lightest part."""
    return mpl.colormaps[name](0.85 * fraction)


def legend_below(figure: Picture, panel: Axes, *, columns: int = 6) -> Picture:
    """The figure, with the legend of a panel below all panels, where it hides no line, in at most so many columns."""
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    return figure

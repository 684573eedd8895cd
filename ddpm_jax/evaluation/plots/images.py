"""Images in rows."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from ddpm_jax.errors import one_line
from ddpm_jax.evaluation.plots.style import Picture, panels
from ddpm_jax.runtime.images import to_uint8


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

"""Densities and vector fields of the plane."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.evaluation.plots.style import INK, Axes, with_matplotlib_folder

with with_matplotlib_folder():
    from matplotlib.colors import LogNorm
    from matplotlib.quiver import Quiver


def plane(extent: float, *, num: int = 101) -> np.ndarray:
    """A square grid of points of the plane, `[num * num, 2]` float32, from -extent to extent."""
    line = np.linspace(-extent, extent, num, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def density(axes: Axes, log_prob: Callable[[jax.Array], jax.Array], *, extent: float, num: int = 101) -> None:
    """Fills a panel with `exp(log_prob(x))`, a function of points `[N, 2]`, the darker the more probable."""
    values = np.exp(np.asarray(log_prob(jnp.asarray(plane(extent, num=num))))).reshape(num, num)
    axes.imshow(values, origin="lower", extent=(-extent, extent) * 2, cmap="Blues", vmin=0, interpolation="bilinear")
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])


def arrows(
    axes: Axes,
    gradient: Callable[[jax.Array], jax.Array],
    *,
    extent: float,
    num: int = 15,
    lengths: tuple[float, float] | None = None,
) -> Quiver:
    """Draws a vector field as arrows, of which the longest is one cell long, and returns them.

    Args:
      axes: a panel.
      gradient: function from points `[N, 2]` to vectors `[N, 2]`.
      extent: the panel shows x from -extent to extent.
      num: number of arrows along each axis.
      lengths: if given, the colours show the lengths of the vectors between these two on a logarithmic scale.
    """
    points = plane(0.93 * extent, num=num)
    field = np.asarray(gradient(jnp.asarray(points)))
    true = np.linalg.norm(field, axis=1)
    field = field / np.sqrt(true[:, None] + 1e-6)  # roots of the lengths, so that short arrows are visible
    scale = np.linalg.norm(field, axis=1).max() * num / (2 * extent)
    options = {"angles": "xy", "scale_units": "xy", "scale": scale, "width": 0.004}
    if lengths is None:
        return axes.quiver(*points.T, *field.T, color=INK, **options)
    colours = {"cmap": "inferno_r", "norm": LogNorm(*lengths, clip=True)}
    return axes.quiver(*points.T, *field.T, true, **colours, **{**options, "width": 0.006})

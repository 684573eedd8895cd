"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays; those that take `axes` draw into one panel of a
figure from `panels`.
"""

from ddpm_jax.evaluation.plots.chains import history, paths
from ddpm_jax.evaluation.plots.fields import arrows, density, plane
from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.posterior import candidates, circles, curves, moves, perplexity
from ddpm_jax.evaluation.plots.results import accuracy, bound, calibration, nearest_pairs, spectrum
from ddpm_jax.evaluation.plots.style import COLOURS, STYLE, Picture, panels, svg_panels
from ddpm_jax.evaluation.plots.training import held_out, live_loss, loss

__all__ = [
    "COLOURS",
    "STYLE",
    "Picture",
    "accuracy",
    "arrows",
    "bound",
    "calibration",
    "candidates",
    "circles",
    "curves",
    "density",
    "held_out",
    "history",
    "live_loss",
    "loss",
    "moves",
    "nearest_pairs",
    "panels",
    "paths",
    "perplexity",
    "plane",
    "spectrum",
    "strips",
    "svg_panels",
]

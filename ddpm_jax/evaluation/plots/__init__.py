"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays; those that take `axes` draw into one panel of a
figure from `panels`.
"""

from ddpm_jax.evaluation.plots.chains import history, paths
from ddpm_jax.evaluation.plots.diagrams import Arrow, Box, diagram, generation_diagram, training_diagram
from ddpm_jax.evaluation.plots.fields import arrows, density, plane
from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.lines import bars, lines
from ddpm_jax.evaluation.plots.results import accuracy, bound, calibration, nearest_pairs, spectrum
from ddpm_jax.evaluation.plots.style import COLOURS, STYLE, Picture, panels, svg_panels
from ddpm_jax.evaluation.plots.training import held_out, live_loss, loss

__all__ = [
    "COLOURS",
    "STYLE",
    "Arrow",
    "Box",
    "Picture",
    "accuracy",
    "arrows",
    "bars",
    "bound",
    "calibration",
    "density",
    "diagram",
    "generation_diagram",
    "held_out",
    "history",
    "lines",
    "live_loss",
    "loss",
    "nearest_pairs",
    "panels",
    "paths",
    "plane",
    "spectrum",
    "strips",
    "svg_panels",
    "training_diagram",
]

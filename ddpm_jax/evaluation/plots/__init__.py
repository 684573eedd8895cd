"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays; those that take `axes` draw into one panel of a
figure from `panels`.
"""

from ddpm_jax.evaluation.plots.chains import history, paths
from ddpm_jax.evaluation.plots.fields import arrows, density, plane
from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.interactive import Animation, animation, slider
from ddpm_jax.evaluation.plots.results import accuracy, bound, calibration, nearest_pairs, spectrum
from ddpm_jax.evaluation.plots.style import COLOURS, STYLE, Picture, panels, svg_panels
from ddpm_jax.evaluation.plots.training import held_out, live_loss, loss
from ddpm_jax.evaluation.plots.weights import decay, deviations, evidence, fan, fits, razor, ridge_path

__all__ = [
    "COLOURS",
    "STYLE",
    "Animation",
    "Picture",
    "accuracy",
    "animation",
    "arrows",
    "bound",
    "calibration",
    "decay",
    "density",
    "deviations",
    "evidence",
    "fan",
    "fits",
    "held_out",
    "history",
    "live_loss",
    "loss",
    "nearest_pairs",
    "panels",
    "paths",
    "plane",
    "razor",
    "ridge_path",
    "slider",
    "spectrum",
    "strips",
    "svg_panels",
]

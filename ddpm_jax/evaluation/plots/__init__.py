"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays; those that take `axes` draw into one panel of a
figure from `panels`.
"""

from ddpm_jax.evaluation.plots.chains import history, paths
from ddpm_jax.evaluation.plots.fields import arrows, density, plane
from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.results import accuracy, bound, calibration, nearest_pairs, spectrum
from ddpm_jax.evaluation.plots.samples import (
    by_steps,
    chain_strip,
    entropy_over_time,
    guidance_costs,
    inpainting,
    labelled,
    uncertainty,
)
from ddpm_jax.evaluation.plots.style import COLOURS, STYLE, Picture, panels, svg_panels
from ddpm_jax.evaluation.plots.training import held_out, live_loss, loss

__all__ = [
    "COLOURS",
    "STYLE",
    "Picture",
    "accuracy",
    "arrows",
    "bound",
    "by_steps",
    "calibration",
    "chain_strip",
    "density",
    "entropy_over_time",
    "guidance_costs",
    "held_out",
    "history",
    "inpainting",
    "labelled",
    "live_loss",
    "loss",
    "nearest_pairs",
    "panels",
    "paths",
    "plane",
    "spectrum",
    "strips",
    "svg_panels",
    "uncertainty",
]

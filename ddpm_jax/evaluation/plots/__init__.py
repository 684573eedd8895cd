"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays; those that take `axes` draw into one panel of a
figure from `panels`.
"""

from ddpm_jax.evaluation.plots.chains import history, paths
from ddpm_jax.evaluation.plots.fields import arrows, density, plane
from ddpm_jax.evaluation.plots.fourier import band_snr, curves, decay, inner_products, settling
from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.results import accuracy, bound, calibration, nearest_pairs, spectrum
from ddpm_jax.evaluation.plots.scores import contours, costs, samples, weighted_arrows
from ddpm_jax.evaluation.plots.style import COLOURS, STYLE, Picture, panels, svg_panels
from ddpm_jax.evaluation.plots.training import held_out, live_loss, loss
from ddpm_jax.evaluation.plots.unet import unet

__all__ = [
    "COLOURS",
    "STYLE",
    "Picture",
    "accuracy",
    "arrows",
    "band_snr",
    "bound",
    "calibration",
    "contours",
    "costs",
    "curves",
    "decay",
    "density",
    "held_out",
    "history",
    "inner_products",
    "live_loss",
    "loss",
    "nearest_pairs",
    "panels",
    "paths",
    "plane",
    "samples",
    "settling",
    "spectrum",
    "strips",
    "svg_panels",
    "unet",
    "weighted_arrows",
]

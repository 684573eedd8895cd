"""Plots in one style: of a run's measurements, of its loss, of images, and of densities and chains in the plane.

Each function returns a matplotlib figure that a notebook displays; those that take `axes` draw into one panel of a
figure from `panels`.
"""

from ddpm_jax.evaluation.plots.chains import history, paths
from ddpm_jax.evaluation.plots.clouds import cloud, clouds, errors, fan, histogram, kernels
from ddpm_jax.evaluation.plots.curves import bars, lines, parabola
from ddpm_jax.evaluation.plots.diagrams import Arrow, Box, diagram, generation_diagram, training_diagram
from ddpm_jax.evaluation.plots.fields import arrows, density, plane
from ddpm_jax.evaluation.plots.fourier import band_snr, decay, inner_products, settling
from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.interactive import Animation, animation, slider
from ddpm_jax.evaluation.plots.network import unet
from ddpm_jax.evaluation.plots.posterior import candidates, circles, densities, displacements, perplexity
from ddpm_jax.evaluation.plots.results import accuracy, bound, calibration, chain_fit, nearest_pairs, spectrum
from ddpm_jax.evaluation.plots.samples import (
    by_steps,
    chain_strip,
    entropy_over_time,
    guidance_costs,
    inpainting,
    labelled,
    uncertainty,
)
from ddpm_jax.evaluation.plots.scores import contours, costs, dots, weighted_arrows
from ddpm_jax.evaluation.plots.style import COLOURS, STYLE, Picture, legend_below, panels, svg_panels
from ddpm_jax.evaluation.plots.training import held_out, live_loss, loss
from ddpm_jax.evaluation.plots.weights import deviations, evidence, fits, kl_over_mean, predictions, razor, ridge_path

__all__ = [
    "COLOURS",
    "STYLE",
    "Animation",
    "Arrow",
    "Box",
    "Picture",
    "accuracy",
    "animation",
    "arrows",
    "band_snr",
    "bars",
    "bound",
    "by_steps",
    "calibration",
    "candidates",
    "chain_fit",
    "chain_strip",
    "circles",
    "cloud",
    "clouds",
    "contours",
    "costs",
    "decay",
    "densities",
    "density",
    "deviations",
    "diagram",
    "displacements",
    "dots",
    "entropy_over_time",
    "errors",
    "evidence",
    "fan",
    "fits",
    "generation_diagram",
    "guidance_costs",
    "held_out",
    "histogram",
    "history",
    "inner_products",
    "inpainting",
    "kernels",
    "kl_over_mean",
    "labelled",
    "legend_below",
    "lines",
    "live_loss",
    "loss",
    "nearest_pairs",
    "panels",
    "parabola",
    "paths",
    "perplexity",
    "plane",
    "predictions",
    "razor",
    "ridge_path",
    "settling",
    "slider",
    "spectrum",
    "strips",
    "svg_panels",
    "training_diagram",
    "uncertainty",
    "unet",
    "weighted_arrows",
]

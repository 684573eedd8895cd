"""Fourier series and power spectra: orthogonal waves, the decay of coefficients, the bands of noisy images."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.evaluation.plots.style import COLOURS, Axes

_MARKERS = "os^Dv*P"


def inner_products(axes: Axes, functions: ArrayLike, names: Sequence[str]) -> None:
    """Fills a panel with the inner products of functions, of the values `[K, N]` over one period, and their K names."""
    functions = np.asarray(functions)
    products = functions @ functions.T / functions.shape[1]
    axes.imshow(products, cmap="PuOr", vmin=-1, vmax=1)
    for row, column in np.ndindex(*products.shape):
        text = f"{abs(products[row, column]):.2g}" if abs(products[row, column]) > 1e-9 else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title("inner products of waves")
    axes.grid(visible=False)


def decay(axes: Axes, sizes: Mapping[str, ArrayLike], *, least: float = 1e-7) -> None:
    """Draws the sizes `[K]` of Fourier coefficients over the frequencies 1 to K, with the lines 1/k and 1/k**2.

    Args:
      axes: a panel.
      sizes: the sizes `sqrt(a**2 + b**2)` of named functions.
      least: coefficients below this are left out.
    """
    for (name, values), marker in zip(sizes.items(), _MARKERS, strict=False):
        values = np.asarray(values)
        shown = np.flatnonzero(values > least)
        axes.loglog(shown + 1, values[shown], marker, markersize=4, label=name)
    k = np.arange(1, max(len(np.asarray(values)) for values in sizes.values()) + 1)
    for power, style in ((1, "--"), (2, ":")):
        axes.loglog(k, 1.0 / k**power, style, color="grey", linewidth=1, label=f"1/k{'²' * (power == 2)}")
    axes.set(xlabel="frequency k", ylabel="size of the coefficient", ylim=(least, 3), title="their coefficients")
    axes.legend()


def band_snr(axes: Axes, schedule: NoiseSchedule, power: ArrayLike, *, first: int = 0) -> None:
    """Draws the signal-to-noise ratio of every band over t, from the band power `[K]` of clean images.

    A dot marks the time at which the noise has as much power as the band; bands below `first` are left out.
    """
    times = np.arange(1, schedule.num_timesteps + 1)
    snr = schedule.alpha_bar[1:, None] / (1 - schedule.alpha_bar[1:, None]) * np.asarray(power)
    for k, values in list(enumerate(snr.T))[first:]:
        axes.semilogy(times, values, color=COLOURS[k], label=_periods(k))
        equal = np.argmin(np.abs(np.log(values)))
        axes.plot(times[equal], 1.0, "o", color=COLOURS[k], markersize=6)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(xlabel="t", ylabel="ratio", title="forward: power of the band over that of the noise")
    axes.invert_xaxis()
    axes.legend()


def settling(axes: Axes, times: ArrayLike, share: ArrayLike, *, first: int = 0) -> None:
    """Draws the power `[F, K]` of each band of an estimate, divided by its final power, over the times `[F]`.

    Large t is at the left; bands below `first` are left out.
    """
    for k, values in list(enumerate(np.asarray(share).T))[first:]:
        axes.plot(np.asarray(times), values, color=COLOURS[k], label=_periods(k))
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set(xlabel="t", ylabel="power / final power", ylim=(0, 1.3), title="reverse: estimate of x_0")
    axes.invert_xaxis()
    axes.legend()


def _periods(k: int) -> str:
    """The name of a band in a legend."""
    return f"{k} period{'s' * (k != 1)}"

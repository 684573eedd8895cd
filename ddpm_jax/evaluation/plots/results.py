"""The results of metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.style import Picture, colour, panels
from ddpm_jax.runtime.images import from_uint8


def bound(result: Mapping[str, Any]) -> Picture:
    """The terms of the bound and the error of the noise over t, from the result of the metric "bpd"."""
    figure, (terms, error) = panels(2, width=4.5)
    times = result["times"]
    terms.loglog(times, result["terms"])
    terms.set(xlabel="t", ylabel="bits/dim", title=f"terms of the bound, sum {result['bits_per_dim']:.3f}")
    error.semilogy(times, result["eps_mse"])
    error.set(xlabel="t", ylabel="mean squared error of eps", title="error of the noise")
    return figure


def chain_fit(bits_per_dim: Mapping[str, Mapping[int, float]], log_snr: Mapping[str, np.ndarray]) -> Picture:
    """The bound of short chains by sequence and number of steps, and where sequences of as many steps have their times.

    Args:
      bits_per_dim: `{sequence: {number of steps: bound}}`.
      log_snr: `{sequence: the log-SNR of its N times}`.
    """
    figure, (bounds, times) = panels(2, width=4.5)
    for name, known in bits_per_dim.items():
        bounds.plot(list(known), list(known.values()), marker="o", markersize=3, label=name)
    bounds.set(xlabel="steps", ylabel="bits/dim", title="bound, on the images of the fit", xscale="log")
    bounds.legend()
    for row, (name, known) in enumerate(log_snr.items()):
        times.plot(known, np.full(len(known), row), "|", markersize=16, markeredgewidth=1.5, label=name)
    times.set(xlabel="log-SNR", yticks=range(len(log_snr)), yticklabels=list(log_snr), ylim=(len(log_snr) - 0.5, -0.5))
    times.set_title(f"times of {len(next(iter(log_snr.values())))} steps")
    return figure


def spectrum(result: Mapping[str, Any]) -> Picture:
    """Band power along the forward and the reverse chain, and of the estimate of x_0, whose low bands settle first.

    The power of the estimate is divided by that at the end of the chain. Near t = T, where x_t is almost only noise,
    the ratio can be above 1: in the estimate an error of eps is multiplied by `sigma / signal`, which is large there.
    """
    figure, (forward, reverse, settling) = panels(3, width=3.9, height=3.3)
    times, bands = np.array(result["times"]), np.arange(len(result["data"]))
    shown = np.linspace(0, len(times) - 1, 7).astype(int)
    for axes, key, title in ((forward, "forward", "x_t, forward"), (reverse, "reverse", "x_t, reverse chain")):
        for i in shown:
            axes.semilogy(bands, result[key][i], label=f"t = {times[i]:g}", color=colour(i / (len(times) - 1)))
        axes.set(xlabel="periods across the image", ylabel="power", title=title)
        axes.legend(fontsize=7, loc="lower left")
    share = np.array(result["estimate_of_x_0"]) / np.array(result["estimate_of_x_0"])[-1]
    for k in bands:
        settling.plot(times, share[:, k], label=f"band {k}", color=colour(k / max(1, bands[-1]), "plasma"))
    settling.axhline(1, color="grey", linewidth=0.8, zorder=1)
    settling.invert_xaxis()
    settling.set(xlabel="t", ylabel="power / final power", title="estimate of x_0, by band", yscale="log")
    settling.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    settling.yaxis.set_major_formatter("{x:g}")
    settling.yaxis.set_minor_locator(NullLocator())
    settling.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def accuracy(result: Mapping[str, Any]) -> Picture:
    """The accuracy and the negative log-likelihood of a classifier over t."""
    figure, (right, nats) = panels(2, width=4.5)
    right.plot(result["times"], result["accuracy_by_t"])
    right.axhline(result["accuracy"], color="grey", linewidth=0.8, label=f"clean images: {result['accuracy']:.3f}")
    right.set(xlabel="t", ylabel="accuracy", title="accuracy on noisy images", ylim=(0, 1.02))
    right.legend(fontsize=7)
    nats.plot(result["times"], result["nll_nats_by_t"])
    nats.set(xlabel="t", ylabel="nats", title="-log p(y | x_t)")
    return figure


def nearest_pairs(result: Mapping[str, Any], pictures: np.ndarray, *, columns: int) -> Picture:
    """Samples, each above its nearest training image, the nearest pair first, from the result of "memorisation".

    Args:
      result: the result.
      pictures: the K samples and their training images, uint8 `[2, K, H, W, C]`; K is a multiple of `columns`, or less.
      columns: pairs in a row.
    """
    columns = min(columns, pictures.shape[1])
    rows = pictures.reshape(2, -1, columns, *pictures.shape[2:]).swapaxes(0, 1)
    names = ["sample", "nearest"] * len(rows)
    figure = strips(from_uint8(rows.reshape(-1, *rows.shape[2:])), rows=names)
    figure.suptitle(f"samples and their nearest training images, ratio of distances {result['value']:.2f}", fontsize=9)
    return figure


def calibration(result: Mapping[str, Any]) -> Picture:
    """The accuracy of a classifier in bins of its confidence on clean images, from the result of "accuracy"."""
    figure, (panel,) = panels(1, width=4.5)
    bins = result["calibration"]
    panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="calibrated")
    shown = [i for i, count in enumerate(bins["count"]) if count]
    x, y, count = (np.array(bins[key])[shown] for key in ("confidence", "accuracy", "count"))
    panel.scatter(x, y, s=12 + 150 * count / count.sum(), zorder=3, clip_on=False, label="bin, by number of images")
    panel.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), title="calibration")
    panel.legend(loc="upper left")
    return figure

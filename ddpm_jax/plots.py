"""Plots of the evaluation, each a function of a metric's result and a path; matplotlib is loaded when one is drawn."""

import numpy as np


def _figure(columns):
    """A figure without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns, 3.6), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def bound(result, path):
    """Terms of the bound and the noise error over t."""
    figure, (terms, error) = _figure(2)
    times = result["times"]
    terms.loglog(times, result["terms"])
    terms.set(xlabel="t", ylabel="bits/dim", title=f"terms of the bound, sum {result['bits_per_dim']:.3f}")
    error.semilogy(times, result["eps_mse"])
    error.set(xlabel="t", ylabel="mean squared error of eps", title="error of the noise")
    for axes in (terms, error):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def spectrum(result, path):
    """Band power along the forward and the reverse chain, and how the estimate of x_0 settles, coarse first."""
    figure, (forward, reverse, settling) = _figure(3)
    times, bands = np.array(result["times"]), np.arange(len(result["data"]))
    shown = np.linspace(0, len(times) - 1, 7).astype(int)
    for axes, key, title in ((forward, "forward", "x_t, forward"), (reverse, "reverse", "x_t, reverse chain")):
        for i in shown:
            axes.semilogy(bands, result[key][i], label=f"t = {times[i]:g}", color=_colour(i / (len(times) - 1)))
        axes.set(xlabel="periods across the image", ylabel="power", title=title)
        axes.legend(fontsize=7)
    share = np.array(result["estimate_of_x_0"]) / np.array(result["estimate_of_x_0"])[-1]
    for k in bands:
        settling.plot(times, share[:, k], label=f"band {k}", color=_colour(k / max(1, bands[-1])))
    settling.axhline(0.5, color="grey", linewidth=0.8)
    settling.invert_xaxis()
    settling.set(xlabel="t", ylabel="share of the final power", title="estimate of x_0: coarse first", ylim=(0, 1.5))
    settling.legend(fontsize=7)
    for axes in (forward, reverse, settling):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def accuracy(result, path):
    """Accuracy and negative log-likelihood of a classifier over t."""
    figure, (right, nats) = _figure(2)
    right.plot(result["times"], result["accuracy_by_t"])
    right.axhline(result["accuracy"], color="grey", linewidth=0.8, label=f"clean images: {result['accuracy']:.3f}")
    right.set(xlabel="t", ylabel="accuracy", title="accuracy on noisy images", ylim=(0, 1.02))
    right.legend(fontsize=7)
    nats.plot(result["times"], result["nll_nats_by_t"])
    nats.set(xlabel="t", ylabel="nats", title="-log p(y | x_t)")
    for axes in (right, nats):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _colour(fraction):
    """A colour of the map that runs from dark to light."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * fraction)


PLOTS = {"bpd": bound, "spectrum": spectrum, "accuracy": accuracy}

"""Weights with a posterior: the evidence, predictions of many weights, and the price of the weights."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.bayes import ELBO
from ddpm_jax.evaluation.plots.style import COLOURS, INK, Axes, Picture, panels


def evidence(axes: Axes, elbos: ArrayLike, log_evidence: float) -> None:
    """Fills a panel with the ELBO `[S]` over the steps of its training and, above it, the rest of the log evidence."""
    elbos = np.asarray(elbos)
    steps, bottom = np.arange(1, len(elbos) + 1), elbos[0] - 0.25 * (log_evidence - elbos[0])
    axes.fill_between(steps, bottom, elbos, color=COLOURS[5], alpha=0.45, linewidth=0, label="ELBO (up to here)")
    axes.fill_between(steps, elbos, log_evidence, color=COLOURS[1], alpha=0.55, linewidth=0, label="KL(q, P(w | D))")
    axes.plot(steps, elbos, color=COLOURS[0])
    axes.axhline(log_evidence, color=INK, linewidth=1.5, label=f"log P(D) = {log_evidence:.1f}")
    top = log_evidence + 0.06 * (log_evidence - bottom)
    axes.set(xscale="log", xlim=(1, len(elbos)), ylim=(bottom, top), xlabel="step of training", ylabel="nats")
    axes.legend(loc="lower right")


def predictions(
    axes: Axes, x: ArrayLike, lines: ArrayLike, *, colour: str = COLOURS[0], name: str = "their average"
) -> None:
    """Draws predictions `[S, N]` at x `[N]` as thin lines, with their average and its name."""
    lines = np.asarray(lines)
    axes.plot(x, lines.T, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(x, lines.mean(axis=0), color=colour, linewidth=2, label=name)
    axes.set(xlabel="x", ylabel="y")


def fits(
    axes: Axes,
    log_prob: Callable[[jax.Array], jax.Array],
    gaussians: Mapping[str, tuple[float, float]],
    *,
    extent: float,
    top: float,
) -> None:
    """Draws a density of numbers as an area, with Gaussians, by name, as lines.

    Only the first panel of a row has the legend.

    Args:
      axes: a panel.
      log_prob: function of points `[N, 1]` to the log density `[N]`.
      gaussians: name, mean and standard deviation of each.
      extent: the panel shows points from -extent to extent.
      top: the largest density that the panel shows.
    """
    line = np.linspace(-extent, extent, 401)
    axes.fill_between(line, np.exp(log_prob(jnp.asarray(line[:, None]))), color="#BBBBBB", linewidth=0, label="p(w)")
    for i, (name, (mean, std)) in enumerate(gaussians.items()):
        density = np.exp(-0.5 * ((line - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        axes.plot(line, density, color=COLOURS[i], linestyle=("-", "--", ":")[i % 3], linewidth=2, label=name)
    axes.set(xlim=(-extent, extent), ylim=(0, top), xlabel="w", yticks=[])
    spec = axes.get_subplotspec()
    if spec is None or spec.is_first_col():
        axes.set_ylabel("density")
        axes.legend(loc="upper right", frameon=False)


def kl_over_mean(axes: Axes, means: ArrayLike, kls: Mapping[str, ArrayLike]) -> None:
    """Draws the KL of one weight, `[M]` nats for each name, over its mean `[M]`."""
    for i, (name, kl) in enumerate(kls.items()):
        axes.plot(means, kl, color=COLOURS[i], linestyle=("-", "--", "-.", ":")[i % 4], linewidth=2, label=name)
    axes.set(xlabel="mean of q(w)", ylabel="KL(q, P(w)), nats", ylim=(0, None))
    axes.legend(loc="upper center")


def ridge_path(axes: Axes, strengths: ArrayLike, weights: ArrayLike, *, chosen: float, means: ArrayLike) -> None:
    """Draws K weights `[L, K]` over the strength lambda `[L]` of their decay, and the means `[K]` at one strength."""
    for i, path in enumerate(np.asarray(weights).T):
        axes.semilogx(strengths, path, color=COLOURS[i % 6], linestyle=("-", "--")[i // 6 % 2], linewidth=1.5)
    axes.axvline(chosen, color=INK, linewidth=0.8, linestyle="--", label="noise variance / prior variance")
    axes.plot(
        np.full(len(means := np.asarray(means)), chosen), means, "o", color=INK, label="means of q(w), by the ELBO"
    )
    axes.set(xlabel="lambda", ylabel="weight")
    axes.legend(loc="lower right")


def deviations(axes: Axes, measured: Mapping[str, ArrayLike], exact: Mapping[str, ArrayLike]) -> None:
    """Draws the standard deviations `[K]` of K directions, as measured and as computed, under the same names."""
    for i, name in enumerate(exact):
        axes.semilogy(np.arange(1, len(np.asarray(exact[name])) + 1), exact[name], color=COLOURS[1 - i], label=name)
        axes.semilogy(np.arange(1, len(np.asarray(exact[name])) + 1), measured[name], "os"[i], color=COLOURS[1 - i])
    axes.set(xlabel="direction of the weights", ylabel="standard deviation")
    axes.legend()


def razor(sizes: ArrayLike, terms: Sequence[ELBO], log_evidences: ArrayLike) -> Picture:
    """The ELBO of models of several sizes `[M]`, its data fit and the log evidence; beside it the parts of the KL."""
    figure, (bound, costs) = panels(2, width=4.4, height=3.2)
    sizes = np.asarray(sizes)
    totals, data_fits = (np.array([getattr(term, name) for term in terms]) for name in ("total", "data_fit"))
    best = sizes[np.argmax(totals)]
    bound.axvline(best, color="#BBBBBB", linewidth=6)
    bound.plot(sizes, data_fits, "s--", color=COLOURS[1], label="data fit")
    bound.plot(sizes, totals, "o-", color=COLOURS[0], label="ELBO")
    bound.plot(sizes, log_evidences, "x", color=INK, markersize=8, label="log P(D)")
    bound.set(xlabel="number of features", ylabel="nats", title=f"the ELBO chooses {best} features")
    bound.legend(loc="lower right")
    variance, mean = (np.array([getattr(term.kl, name) for term in terms]) for name in ("variance", "mean"))
    costs.bar(sizes, variance, label="precision of the weights", color=COLOURS[5])
    costs.bar(sizes, mean, bottom=variance, label="size of the weights (decay)", color=COLOURS[1], hatch="//")
    costs.set(xlabel="number of features", ylabel="KL(q, P(w)), nats", title="what the weights cost")
    costs.legend(loc="upper left")
    return figure

"""The figure of quality, diversity and speed, of which every sampler gives up one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_jax.evaluation.plots import COLOURS, Picture, panels
from ddpm_jax.evaluation.plots.samples import free_places


def trilemma(chains: Sequence[Mapping[str, Any]]) -> Picture:
    """Quality, diversity and speed of several chains: precision against recall, and the Frechet distance over the cost.

    Args:
      chains: for each its `name`, that of its sampler, `num_steps`, `seconds` per image, `evaluations` of the network
        per image, and `precision`, `recall` and `distance`, each an estimate with `value`, `low` and `high`.
    """
    figure, (plane, cost) = panels(2, width=4.6, height=3.7)
    seconds = np.array([chain["seconds"] for chain in chains])
    ordered = sorted(chains, key=lambda chain: chain["num_steps"])
    samplers = {name: [chain for chain in ordered if chain["name"] == name] for name in (c["name"] for c in chains)}
    drawn = [
        np.array([[chain[key]["value"] for key in ("recall", "precision")] for chain in own])
        for own in samplers.values()
    ]
    places = free_places(drawn, far=13)
    for i, (name, own) in enumerate(samplers.items()):
        colour, evaluations = COLOURS[i % len(COLOURS)], [chain["evaluations"] for chain in own]
        x, y, far = ([chain[key]["value"] for chain in own] for key in ("recall", "precision", "distance"))
        sizes = [30 + 60 * np.log10(chain["seconds"] / seconds.min()) for chain in own]
        plane.plot(x, y, color=colour, linewidth=0.8, alpha=0.6)
        plane.scatter(x, y, s=sizes, color=colour, alpha=0.55, linewidths=0, clip_on=False)
        plane.plot([], [], color=colour, marker="o", label=name)
        words = {"color": colour, "fontsize": 8, "ha": "center", "va": "center", "textcoords": "offset points"}
        for chain, recall, precision, place in zip(own, x, y, places[i], strict=True):
            plane.annotate(f"{chain['num_steps']:,}", (recall, precision), tuple(place), **words)
        reach = [[chain["distance"][key] for chain in own] for key in ("low", "high")]
        cost.plot(evaluations, far, color=colour, marker="o", label=name)
        cost.fill_between(evaluations, *reach, color=colour, alpha=0.15, linewidth=0)
    plane.set(
        xlabel="recall (diversity)",
        ylabel="precision (quality)",
        title="quality against diversity",
    )
    shares = {key: [chain[key]["value"] for chain in chains] for key in ("recall", "precision")}
    plane.set(xlim=_limits(shares["recall"]), ylim=_limits(shares["precision"]))
    cost.set(
        xlabel="evaluations of the network per image, logarithmic",
        ylabel="Frechet distance",
        xscale="log",
        ylim=(0, None),
    )
    ticks = sorted({chain["evaluations"] for chain in chains})
    cost.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    cost.minorticks_off()
    cost.set_title("distance to the data")
    plane.scatter([], [], s=30, color="grey", alpha=0.55, linewidths=0, label="larger: slower; number: steps")
    cost.fill_between([], [], color="grey", alpha=0.3, linewidth=0, label="interval of 95 %")
    for panel in (plane, cost):
        panel.legend()
    return figure


def _limits(shares: Sequence[float]) -> tuple[float, float]:
    """The limits of an axis that shows shares in [0, 1], with room for the discs."""
    low, high = min(shares), max(shares)
    room = max(0.15 * (high - low), 0.06)
    return low - room, min(high + room, 1.01)

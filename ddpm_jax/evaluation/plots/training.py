"""The loss of a run, from its log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_jax.evaluation.plots.style import COLOURS, INK, Picture, colour, panels


def loss(lines: Sequence[Mapping[str, Any]]) -> Picture:
    """The loss of a run, for a classifier with the accuracy beside it, from the lines of its log (`log.read_log`)."""
    keys = [key for key in ("loss", "accuracy") if key in lines[-1]]
    figure, axes = panels(len(keys), width=7.2 / len(keys), height=2.6)
    steps = [line["step"] for line in lines]
    for panel, key in zip(axes, keys, strict=True):
        for i in range(1, 5):
            quarter = [line.get(f"{key}_t{i}", np.nan) for line in lines]
            panel.plot(steps, quarter, color=colour((i - 1) / 3), linewidth=0.8, label=f"quarter {i} of t")
        panel.plot(steps, [line[key] for line in lines], color=INK, label="all t")
        if held_out := [(line["step"], line[f"held_out_{key}"]) for line in lines if f"held_out_{key}" in line]:
            panel.plot(*zip(*held_out, strict=True), "o-", color=COLOURS[1], markersize=3, label="held out, all t")
        panel.set(xlabel="step", ylabel=key, yscale="log" if key == "loss" else "linear")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    last = lines[-1]
    figure.suptitle(f"step {last['step']:,}, loss {last['loss']:.3f}, {last['images_per_s']:,.0f} images/s", fontsize=9)
    return figure


def held_out(lines: Sequence[Mapping[str, Any]]) -> Picture:
    """The loss of a run on its training images and on those held out, from the lines of its log (`log.read_log`)."""
    figure, (panel,) = panels(1, width=4.5)
    for key, name in (("loss", "training images"), ("held_out_loss", "images held out")):
        known = [line for line in lines if line.get(key) is not None]
        panel.plot([line["step"] for line in known], [line[key] for line in known], label=name)
    panel.set(xlabel="step", ylabel="loss", yscale="log")
    panel.legend()
    return figure


def live_loss() -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """A function for the argument `watch` of `train`: it draws `loss` in a notebook and updates the plot in place."""
    from IPython.display import display

    shown = []

    def watch(lines: Sequence[Mapping[str, Any]]) -> None:
        if shown:
            shown[0].update(loss(lines))
        else:
            shown.append(display(loss(lines), display_id=True))

    return watch

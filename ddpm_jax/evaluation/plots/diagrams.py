"""Diagrams of boxes and arrows, and the two algorithms drawn with them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.plots.style import COLOURS, INK, Axes, with_matplotlib_folder

with with_matplotlib_folder():
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch


class Box(NamedTuple):
    """A box with text; an image is drawn in its upper part, above the text.

    Attributes:
      centre: its place.
      text: the text in the box, of one line or more.
      colour: of its edge; its face is lighter.
      width, height: its size.
      image: `[H, W]` or `[H, W, 1]` in [-1, 1], or None.
    """

    centre: tuple[float, float]
    text: str
    colour: str = INK
    width: float = 1.5
    height: float = 0.75
    image: ArrayLike | None = None


class Arrow(NamedTuple):
    """An arrow between two boxes.

    Attributes:
      start, end: the names of the boxes.
      text: the text beside its middle.
      bend: how far it bends to the side, as a share of its length; positive to the right of its direction.
      offset: the place of the text relative to the middle of the straight line between the boxes.
      dashed: whether it is dashed.
    """

    start: str
    end: str
    text: str = ""
    bend: float = 0.0
    offset: tuple[float, float] = (0.0, 0.15)
    dashed: bool = False


def diagram(axes: Axes, boxes: Mapping[str, Box], arrows: Sequence[Arrow]) -> None:
    """Fills a panel with named boxes and the arrows between them; one unit has the same length in both directions."""
    patches = {name: _drawn(axes, box) for name, box in boxes.items()}
    for arrow in arrows:
        start, end = (np.array(boxes[name].centre) for name in (arrow.start, arrow.end))
        line = FancyArrowPatch(
            tuple(start),
            tuple(end),
            patchA=patches[arrow.start],
            patchB=patches[arrow.end],
            shrinkA=2,
            shrinkB=2,
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={arrow.bend}",
            mutation_scale=12,
            color=INK,
            linestyle="--" if arrow.dashed else "-",
        )
        axes.add_patch(line)
        if arrow.text:
            x, y = (start + end) / 2 + arrow.offset
            axes.text(x, y, arrow.text, ha="center", va="center")
    axes.set_axis_off()
    axes.set_aspect("equal")
    lefts, bottoms, rights, tops = zip(*map(_sides, boxes.values()), strict=True)
    axes.set(xlim=(min(lefts) - 0.1, max(rights) + 0.1), ylim=(min(bottoms) - 0.1, max(tops) + 0.1))


def training_diagram(
    axes: Axes, *, x_0: ArrayLike, eps: ArrayLike, x_t: ArrayLike, answer: ArrayLike, t: int, label: str
) -> None:
    """Draws algorithm 1 as supervised learning: the question (x_t, t), the network's answer, and the right one.

    Args:
      axes: a panel twice as wide as high.
      x_0, eps, x_t: the image, the noise and the noisy image, `[H, W, 1]`, shown from -1 to 1.
      answer: the network's estimate of eps, likewise.
      t: the time of x_t.
      label: the class of x_0.
    """
    data, noise, model, loss = COLOURS[0], COLOURS[4], COLOURS[2], COLOURS[1]
    boxes = {
        "x_0": Box((0.8, 3.0), f"image $x_0$: {label}", data, 1.6, 1.5, x_0),
        "eps": Box((0.8, 1.1), r"noise $\epsilon$", noise, 1.6, 1.5, eps),
        "t": Box((3.3, 3.52), f"time $t = {t}$", INK, 1.6, 0.46),
        "x_t": Box((3.3, 2.1), f"question $x_t$, $t$ = {t}", INK, 1.7, 1.5, x_t),
        "network": Box((5.5, 2.1), "network\n" r"$\epsilon_\theta(x_t, t)$", model),
        "answer": Box((7.5, 2.1), r"answer $\epsilon_\theta$", noise, 1.4, 1.5, answer),
        "loss": Box((7.5, 0.5), "loss\n" r"$\|\epsilon - \epsilon_\theta\|^2$", loss, 1.4),
    }
    arrows = [
        Arrow("x_0", "x_t"),
        Arrow("eps", "x_t"),
        Arrow("t", "x_t"),
        Arrow("x_t", "network"),
        Arrow("t", "network"),
        Arrow("network", "answer"),
        Arrow("answer", "loss"),
        Arrow("eps", "loss", "the right answer", offset=(-0.3, 0.22)),
        Arrow("loss", "network", "gradient", dashed=True, offset=(-0.55, -0.05)),
    ]
    diagram(axes, boxes, arrows)
    axes.set_title("algorithm 1: training")


def generation_diagram(
    axes: Axes, *, x_T: ArrayLike, x_t: ArrayLike, answer: ArrayLike, x_0: ArrayLike, t: int
) -> None:
    """Draws algorithm 2 as a loop: the question (x_t, t), the network's answer, a step to x_{t-1}, the next question.

    Args:
      axes: a panel twice as wide as high.
      x_T, x_t, x_0: the noise of the start, a noisy image and the image of the end, `[H, W, 1]`, shown from -1 to 1.
      answer: the network's estimate of the noise in x_t, likewise.
      t: the time of x_t.
    """
    data, noise, model = COLOURS[0], COLOURS[4], COLOURS[2]
    boxes = {
        "x_T": Box((0.8, 3.0), "start: noise $x_T$", noise, 1.6, 1.5, x_T),
        "x_t": Box((3.3, 3.0), f"question $x_t$, $t$ = {t}", INK, 1.7, 1.5, x_t),
        "network": Box((5.5, 3.0), "network\n" r"$\epsilon_\theta(x_t, t)$", model),
        "answer": Box((7.5, 3.0), r"answer $\epsilon_\theta$", noise, 1.4, 1.5, answer),
        "t": Box((5.5, 3.95), f"time $t = {t}$", INK, 1.6, 0.46),
        "z": Box((7.75, 1.1), "noise $z$", noise, 0.95, 0.5),
        "step": Box((5.5, 1.1), r"step: $x_{t-1} = \mu(x_t, \epsilon_\theta) + \sigma_t z$", INK, 3.1),
        "x_0": Box((0.8, 1.1), "end: image $x_0$", data, 1.6, 1.5, x_0),
    }
    arrows = [
        Arrow("x_T", "x_t", "$t = T$"),
        Arrow("x_t", "network"),
        Arrow("network", "answer"),
        Arrow("t", "network"),
        Arrow("answer", "step"),
        Arrow("z", "step"),
        Arrow("step", "x_t", "the next question,\nat $t - 1$", offset=(0.95, 0.0)),
        Arrow("step", "x_0", "after $t = 1$, where $z = 0$", offset=(-0.4, 0.16)),
    ]
    diagram(axes, boxes, arrows)
    axes.set_title("algorithm 2: generation")


def _drawn(axes: Axes, box: Box) -> FancyBboxPatch:
    """Draws a box with its image and its text, and returns its outline."""
    left, bottom, _, top = _sides(box)
    face = tuple(0.88 + 0.12 * part for part in to_rgb(box.colour))
    patch = FancyBboxPatch(
        (left, bottom), box.width, box.height, boxstyle="round,pad=0,rounding_size=0.08", ec=box.colour, fc=face, lw=1.3
    )
    axes.add_patch(patch)
    if box.image is None:
        axes.text(*box.centre, box.text, ha="center", va="center")
        return patch
    side, middle = box.height - 0.45, box.centre[0]
    extent = (middle - side / 2, middle + side / 2, top - 0.08 - side, top - 0.08)
    axes.imshow(np.squeeze(box.image), extent=extent, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", zorder=3)
    axes.text(middle, bottom + 0.17, box.text, ha="center", va="center")
    return patch


def _sides(box: Box) -> tuple[float, float, float, float]:
    """The left, lower, right and upper side of a box."""
    x, y = box.centre
    return x - box.width / 2, y - box.height / 2, x + box.width / 2, y + box.height / 2

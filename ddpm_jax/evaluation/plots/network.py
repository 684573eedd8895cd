"""The U-Net as a picture: its blocks, their sizes, its skip connections, and where time and class enter."""

from itertools import pairwise
from typing import NamedTuple

from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from ddpm_jax.evaluation.plots.style import COLOURS, INK, Axes, Picture, panels
from ddpm_jax.models.unet import Architecture, UNet

_FACES = {
    "convolution": "#E3E3E3",
    "residual block": "#A9CCE8",
    "residual block and self-attention": "#F2B48C",
    "halves or doubles the sides": "#A6DDC9",
}
_TIME, _CLASS, _SKIP = COLOURS[3], COLOURS[4], COLOURS[2]
_WIDTH, _HEIGHT, _COLUMN, _ROW, _ASIDE = 0.84, 0.66, 1.12, 1.75, 0.18
_INCHES = 0.72  # per unit of the drawing


class Stage(NamedTuple):
    """One box of the picture: a convolution, a residual block or a change of resolution.

    Attributes:
      name: the path of the module in the network, such as "encoder/level_0_block_0".
      kind: a key of the legend, such as "residual block".
      level: 0 for the full resolution; each level halves it.
      size: height and width of the result, in pixels.
      channels: channels of the result.
      skip: name of the stage whose result is concatenated to the input, or "".
    """

    name: str
    kind: str
    level: int
    size: int
    channels: int
    skip: str = ""

    @property
    def shape(self) -> str:
        """The text in the box: height and width, and below them the channels."""
        times = "\N{MULTIPLICATION SIGN}"
        return f"{self.size}{times}{self.size}\n{times}{self.channels}"


def stages(network: UNet, *, image_size: int) -> list[Stage]:
    """The stages of a U-Net for images of `image_size` pixels, in the order of computation."""
    arch = network.arch
    last = len(arch.channel_mult) - 1
    found = [Stage("encoder/conv_in", "convolution", 0, image_size, arch.channels)]
    for level in range(last + 1):
        found += _blocks(arch, "encoder", level, image_size >> level, [""] * arch.num_res_blocks)
        if level < last:
            found.append(_resampled("encoder", f"level_{level}_down", level + 1, image_size, found[-1].channels))
    skips = [stage.name for stage in found]
    size, channels = image_size >> last, found[-1].channels
    found += [Stage("middle/block_0", "residual block and self-attention", last, size, channels)]
    found += [Stage("middle/block_1", "residual block", last, size, channels)]
    for level in range(last, -1, -1):
        taken = [skips.pop() for _ in range(arch.num_res_blocks + 1)]
        found += _blocks(arch, "decoder", level, image_size >> level, taken)
        if level > 0:
            found.append(_resampled("decoder", f"level_{level}_up", level - 1, image_size, found[-1].channels))
    return [*found, Stage("conv_out", "convolution", 0, image_size, network.out_channels)]


def unet(network: UNet, *, image_size: int) -> Picture:
    """Draws a U-Net for images of `image_size` pixels: from the noisy image at the left to the prediction at the right.

    A row is a level, and a box is written with the height, width and channels of its result. Skip connections run above
    the boxes; the embedding of the time, and of the class if there are classes, enters every residual block from below.
    """
    found = stages(network, image_size=image_size)
    places = {stage.name: (_COLUMN * i, -_ROW * stage.level) for i, stage in enumerate(found)}
    right, bottom = _COLUMN * (len(found) - 1), -_ROW * (len(network.arch.channel_mult) - 1)
    figure, (axes,) = panels(1, width=_INCHES * (right + 3.1), height=_INCHES * (3.7 - bottom) + 0.7)
    axes.set(xlim=(-1.3, right + 1.8), ylim=(bottom - 2.3, 1.4), aspect="equal")
    axes.axis("off")
    for stage in found:
        _draw_box(axes, places[stage.name], _FACES[stage.kind], stage.shape)
        _draw_skip(axes, stage, found, places)
    for before, after in pairwise(found):
        _draw_step(axes, places[before.name], places[after.name])
    for text, tail, head in (("x_t", -1.2, -_WIDTH / 2), ("prediction", right + _WIDTH / 2, right + 1.7)):
        axes.annotate("", (head, 0), (tail, 0), arrowprops={"arrowstyle": "->", "color": INK, "shrinkA": 0})
        axes.text((head + tail) / 2, 0.16, text, fontsize=8, ha="center")
    _draw_embedding(axes, network, [places[stage.name] for stage in found if "block" in stage.kind], bottom - 1.75)
    handles: list[Patch | Line2D] = [Patch(facecolor=face, edgecolor=INK, label=kind) for kind, face in _FACES.items()]
    handles += [Line2D([], [], color=_SKIP, label="skip connection, concatenated")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _blocks(arch: Architecture, half: str, level: int, size: int, skips: list[str]) -> list[Stage]:
    """The residual blocks of a level, one for each skip that they take, or ""."""
    kind = "residual block" + " and self-attention" * (size in arch.attention_resolutions)
    channels = arch.channels * arch.channel_mult[level]
    return [Stage(f"{half}/level_{level}_block_{i}", kind, level, size, channels, s) for i, s in enumerate(skips)]


def _resampled(half: str, name: str, level: int, image_size: int, channels: int) -> Stage:
    """The stage that changes the resolution to that of `level`."""
    return Stage(f"{half}/{name}", "halves or doubles the sides", level, image_size >> level, channels)


def _draw_box(axes: Axes, place: tuple[float, float], face: str, text: str, *, width: float = _WIDTH) -> None:
    """Draws a box with its centre at `place` and a text in it."""
    corner = (place[0] - width / 2, place[1] - _HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(corner, width, _HEIGHT, boxstyle=style, facecolor=face, edgecolor=INK, zorder=3))
    axes.text(*place, text, ha="center", va="center", fontsize=8, zorder=4)


def _draw_step(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws the arrow from a stage to the next, which may lie one level lower or higher."""
    (x, y), (u, v) = start, end
    if y == v:
        tail, head, bend = (x + _WIDTH / 2, y), (u - _WIDTH / 2, v), "arc3"
    elif v < y:
        tail, head, bend = (x + _WIDTH / 2, y), (u - _ASIDE, v + _HEIGHT / 2), "angle,angleA=0,angleB=90,rad=3"
    else:
        tail, head, bend = (x + _ASIDE, y + _HEIGHT / 2), (u - _WIDTH / 2, v), "angle,angleA=90,angleB=0,rad=3"
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": INK, "connectionstyle": bend})


def _draw_skip(axes: Axes, stage: Stage, found: list[Stage], places: dict[str, tuple[float, float]]) -> None:
    """Draws the skip connection that enters a stage, above all boxes between its ends."""
    if not stage.skip:
        return
    (x, y), u = places[stage.skip], places[stage.name][0] - _ASIDE
    x += _ASIDE
    level = [other for other in found if other.level == stage.level and other.skip]
    height = y + _HEIGHT / 2 + 0.16 + 0.62 * (level.index(stage) + 1) / len(level)
    axes.plot([x, x, u], [y + _HEIGHT / 2, height, height], color=_SKIP, linewidth=1.4, zorder=2)
    arrow = {"arrowstyle": "->", "color": _SKIP, "linewidth": 1.4, "shrinkA": 0}
    axes.annotate("", (u, y + _HEIGHT / 2), (u, height), arrowprops=arrow)


def _draw_embedding(axes: Axes, network: UNet, blocks: list[tuple[float, float]], y: float) -> None:
    """Draws the embedding of the time and the class below the network, and its arrow into every residual block."""
    width, middle = 4 * network.arch.channels, sum(x for x, _ in blocks) / len(blocks)
    bus = y + 0.85
    axes.plot([blocks[0][0], blocks[-1][0]], [bus, bus], color=_TIME, linewidth=1.2)
    for x, top in blocks:
        arrow = {"arrowstyle": "->", "color": _TIME, "linewidth": 1.2, "shrinkA": 0}
        axes.annotate("", (x, top - _HEIGHT / 2), (x, bus), arrowprops=arrow)
    parts = [("time t: sines, cosines,\ntwo dense layers", "#EFD5E3")]
    if network.num_classes:
        parts.append((f"class y: a table of\n{network.num_classes} vectors", "#FAE3B0"))
    for i, (text, face) in enumerate(parts):
        x = middle + 3.0 * (i - (len(parts) - 1) / 2)
        _draw_box(axes, (x, y), face, text, width=2.6)
        axes.plot([x, x], [y + _HEIGHT / 2, bus], color=_TIME, linewidth=1.2)
    if len(parts) == 2:
        axes.text(middle, y, "+", ha="center", va="center", fontsize=11)
    axes.text(middle + 3.0 * len(parts) / 2 + 0.1, y, f"embedding: {width} channels", va="center", fontsize=8)

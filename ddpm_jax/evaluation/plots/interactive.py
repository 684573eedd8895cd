"""Pictures that move: with a slider, where a notebook is alive, and animated ones."""

import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ddpm_jax.evaluation.plots.images import strips
from ddpm_jax.evaluation.plots.style import Axes, Picture, panels

Value = TypeVar("Value")
STATIC = ("DDPM_JAX_STATIC", "DDPM_JAX_SMOKE")  # variables of the environment: nobody is there to move a slider


class Animation:
    """A picture of several frames, which a notebook shows as an animated PNG and a browser repeats for ever.

    Attributes:
      frames: the frames, of one size and with one palette.
      milliseconds: how long each is shown.
    """

    def __init__(self, frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> None:
        self.frames, self.milliseconds = list(frames), list(milliseconds)

    def savefig(self, fname: str | os.PathLike[str] | IO[bytes], *, format: str | None = None) -> None:
        """Writes the animation; the suffix of the path, .png or .gif, gives the format."""
        first, *rest = self.frames
        options = {"save_all": True, "append_images": rest, "duration": self.milliseconds, "loop": 0}
        first.save(fname, format=format, **options)

    def _repr_png_(self) -> bytes:
        """The animation as an animated PNG."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def animation(
    frames: Sequence[Picture] | ArrayLike,
    *,
    captions: Sequence[str] = (),
    seconds: float = 4.0,
    hold: float = 1.5,
    size: float = 1.6,
    num_colours: int = 64,
) -> Animation:
    """Figures of one size, or images `[F, H, W, C]` in [-1, 1], as an animated picture; the last is shown longest.

    Args:
      frames: F figures or images.
      captions: F titles of images, or () for none.
      seconds: duration of all frames but the last.
      hold: seconds for which the last frame is shown.
      size: side of an image, in inches of 100 pixels.
      num_colours: number of colours of all frames together; few make a small file.
    """
    figures = [frame for frame in frames if isinstance(frame, Picture)] if isinstance(frames, Sequence) else []
    if not figures:
        titles = [[caption] for caption in captions] or [[]] * len(np.asarray(frames))
        pairs = zip(np.asarray(frames), titles, strict=True)
        figures = [strips(image[None, None], columns=title, size=size) for image, title in pairs]
    drawn = np.stack([_pixels(figure) for figure in figures])
    # One palette for all frames, as an animated PNG needs it: that of the frames one below the other.
    joined = Image.fromarray(drawn.reshape(-1, *drawn.shape[2:])).quantize(num_colours)
    height, width = drawn.shape[1:3]
    parts = [joined.crop((0, i * height, width, (i + 1) * height)) for i in range(len(drawn))]
    each = round(1000 * seconds / max(1, len(parts) - 1))
    return Animation(parts, [each] * (len(parts) - 1) + [round(1000 * hold)])


def slider(
    draw: Callable[[Axes, Value], None],
    values: Sequence[Value],
    *,
    name: str,
    shown: Sequence[Value] | None = None,
    width: float = 3.0,
    height: float = 3.0,
) -> Any:
    """A panel with a slider for the value that it shows; without a slider, a figure with a panel for a few values.

    There is a slider in Jupyter and in Colab, if `ipywidgets` is installed, but not while the notebooks are run to be
    saved or tested.

    Args:
      draw: function that draws a value into a panel.
      values: what the slider can be set to; it begins in the middle.
      name: name of the value, which stands beside the slider and over the panels.
      shown: the values of the figure without a slider; 4 of `values` by default.
      width, height: size of a panel, in inches; with a slider it is half as large again.
    """
    if _is_live():
        return _with_slider(draw, values, name, 1.5 * width, 1.5 * height)
    if shown is None:
        shown = [values[i] for i in np.unique(np.linspace(0, len(values) - 1, 4).round().astype(int))]
    figure, axes = panels(len(shown), width=width, height=height)
    for panel, value in zip(axes, shown, strict=True):
        draw(panel, value)
        panel.set_title(f"{name} = {value}")
    return figure


def _with_slider(draw: Callable[[Axes, Any], None], values: Sequence[Any], name: str, *size: float) -> Any:
    """The widgets of a slider and of the picture that follows it."""
    import ipywidgets

    def picture(value: Any) -> bytes:
        figure, [panel] = panels(1, width=size[0], height=size[1])
        draw(panel, value)
        panel.set_title(f"{name} = {value}")
        return figure._repr_png_()

    begin = values[len(values) // 2]
    control = ipywidgets.SelectionSlider(options=list(values), value=begin, description=name, continuous_update=False)
    image = ipywidgets.Image(value=picture(begin), format="png")
    control.observe(lambda change: setattr(image, "value", picture(change["new"])), names="value")
    return ipywidgets.VBox([control, image])


def _is_live() -> bool:
    """Whether this runs in a notebook whose reader can move a slider."""
    if any(variable in os.environ for variable in STATIC) or not importlib.util.find_spec("ipywidgets"):
        return False
    return "google.colab" in sys.modules or "ipykernel" in sys.modules


def _pixels(figure: Picture) -> np.ndarray:
    """A figure as an array of pixels, `[H, W, 3]` uint8."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return np.asarray(Image.open(drawn).convert("RGB"))

"""Sliders and animations: what a reader sees where a notebook is alive, and where it is a saved page."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image
from support.tiny import ROOT

from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.plots import interactive


class Control:
    """A slider as ipywidgets has it, which a test moves."""

    def __init__(self, **options):
        self.options, self.value, self.description = options["options"], options["value"], options["description"]

    def observe(self, follow, names):
        assert names == "value"
        self.move = lambda value: follow({"new": value})


@pytest.fixture
def widgets(monkeypatch):
    """A notebook with a reader, and with ipywidgets."""
    module = types.ModuleType("ipywidgets")
    module.SelectionSlider, module.Image = Control, types.SimpleNamespace
    module.VBox = lambda children: types.SimpleNamespace(children=children)
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "ipywidgets", module)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    for variable in interactive.STATIC:
        monkeypatch.delenv(variable, raising=False)


def draw(panel, value):
    """A line of this height."""
    panel.plot([0, 1], [value, value], linewidth=5)
    panel.set(ylim=(0, 10))


def test_a_slider_shows_the_value_that_it_is_moved_to(widgets):
    control, image = plots.slider(draw, [1, 4, 9], name="t").children
    assert (control.options, control.value, control.description) == ([1, 4, 9], 4, "t")
    before = image.value
    control.move(9)
    after = image.value
    assert before != after
    control.move(4)
    assert image.value == before
    assert Image.open(io.BytesIO(after)).size == Image.open(io.BytesIO(before)).size


@pytest.mark.parametrize("variable", ["DDPM_JAX_STATIC", "DDPM_JAX_SMOKE"])
def test_without_a_reader_a_slider_is_a_figure_of_a_few_values(widgets, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    figure = plots.slider(draw, list(range(10)), name="t")
    assert [panel.get_title() for panel in figure.axes] == ["t = 0", "t = 3", "t = 6", "t = 9"]
    assert [panel.lines[0].get_ydata()[0] for panel in figure.axes] == [0, 3, 6, 9]
    chosen = plots.slider(draw, list(range(10)), name="t", shown=[2, 7])
    assert [panel.get_title() for panel in chosen.axes] == ["t = 2", "t = 7"]


@pytest.mark.parametrize("missing", ["ipywidgets", "ipykernel"])
def test_without_its_library_or_outside_a_notebook_it_is_a_figure_too(widgets, monkeypatch, missing):
    monkeypatch.delitem(sys.modules, missing)
    find = interactive.importlib.util.find_spec
    monkeypatch.setattr(interactive.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert isinstance(plots.slider(draw, [1, 2], name="t"), plots.Picture)


def test_the_notebooks_are_saved_without_sliders():
    assert f'os.environ["{interactive.STATIC[0]}"] = "1"' in (ROOT / "notebooks" / "run.py").read_text()


def frames_of(data):
    """The frames of an animated picture, and their durations in milliseconds."""
    picture, frames, times = Image.open(io.BytesIO(data)), [], []
    for i in range(picture.n_frames):
        picture.seek(i)
        frames.append(np.asarray(picture.convert("RGB")))
        times.append(picture.info["duration"])
    return np.stack(frames), times


def test_an_animation_has_its_frames_in_order_and_holds_the_last(tmp_path):
    shades = np.linspace(-1, 1, 5)[:, None, None, None] * np.ones((5, 8, 8, 1))
    animation = plots.animation(shades, seconds=2, hold=1.5, captions=[f"t = {t}" for t in range(5)])
    frames, times = frames_of(animation._repr_png_())
    assert times == [500, 500, 500, 500, 1500]
    middle = frames[:, frames.shape[1] * 2 // 3, frames.shape[2] // 2, 0]
    np.testing.assert_allclose(middle, (shades[:, 0, 0, 0] + 1) * 127.5, atol=6)
    assert min(frames.shape[1:3]) >= 128
    animation.savefig(tmp_path / "x.gif")
    np.testing.assert_allclose(frames_of((tmp_path / "x.gif").read_bytes())[0], frames, atol=6)


def test_figures_are_animated_with_their_colours():
    figures = []
    for height, colour in ((2, plots.COLOURS[0]), (5, plots.COLOURS[1]), (8, plots.COLOURS[2])):
        figure, [panel] = plots.panels(1, width=2, height=2)
        panel.axhspan(0, height, color=colour)
        panel.set(ylim=(0, 10))
        figures.append(figure)
    frames, _ = frames_of(plots.animation(figures)._repr_png_())
    for frame, colour in zip(frames, plots.COLOURS, strict=False):
        expected = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.any(np.abs(frame.astype(int) - expected).max(axis=-1) <= 3)

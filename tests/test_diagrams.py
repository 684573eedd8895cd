"""Diagrams of boxes and arrows, and panels of named curves and bars."""

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ddpm_jax.evaluation import plots

BOXES = {"a": plots.Box((0.0, 0.0), "first"), "b": plots.Box((4.0, 1.0), "second", width=2.0)}
IMAGE = np.linspace(-1, 1, 64).reshape(8, 8, 1)


def parts(panel, kind):
    """The patches of a kind in a panel."""
    return [patch for patch in panel.patches if isinstance(patch, kind)]


def texts(panel):
    return [text.get_text() for text in panel.texts]


def drawn(arrows):
    figure, (panel,) = plots.panels(1)
    plots.diagram(panel, BOXES, arrows)
    figure.draw_without_rendering()
    return panel


def test_a_diagram_shows_every_box_and_arrow_within_its_panel():
    panel = drawn([plots.Arrow("a", "b", "then"), plots.Arrow("b", "a", dashed=True, bend=0.3)])
    assert texts(panel) == ["first", "second", "then"]
    for name, patch in zip(BOXES, parts(panel, FancyBboxPatch), strict=True):
        x, y = patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
        assert (x, y) == pytest.approx(BOXES[name].centre)
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    assert (left, right, bottom, top) == pytest.approx((-0.85, 5.1, -0.475, 1.475))
    assert [arrow.get_linestyle() for arrow in parts(panel, FancyArrowPatch)] == ["-", "--"]


def test_an_arrow_runs_from_the_edge_of_its_box_to_that_of_the_other():
    panel = drawn([plots.Arrow("a", "b")])
    (arrow,) = parts(panel, FancyArrowPatch)
    places = arrow.get_path().vertices[:3, 0]  # the others are those of the head
    assert 0.75 < places.min() < 1.1
    assert 2.6 < places.max() < 3.05


def test_an_image_stands_in_its_box_above_the_text():
    _, (panel,) = plots.panels(1)
    box = plots.Box((1.0, 2.0), "below", width=1.5, height=1.5, image=IMAGE)
    plots.diagram(panel, {"one": box}, [])
    (image,) = panel.images
    left, right, bottom, top = image.get_extent()
    assert right - left == pytest.approx(top - bottom)
    assert 0.25 < left < right < 1.75
    assert panel.texts[0].get_position()[1] < bottom < top < 2.75
    np.testing.assert_array_equal(image.get_array(), IMAGE[..., 0])


def test_the_two_algorithms_have_their_questions_and_answers():
    _, (learn, draw) = plots.panels(1, 2, width=8.6, height=4.1)
    pictures = {"x_0": IMAGE, "x_t": -IMAGE, "answer": IMAGE / 2, "t": 200}
    plots.training_diagram(learn, **pictures, eps=IMAGE / 3, label="class 3")
    plots.generation_diagram(draw, **pictures, x_T=IMAGE / 4)
    for panel, words in (
        (learn, ("class 3", "t = 200", "question", "answer", "the right answer", "loss", "gradient")),
        (draw, ("question", "answer", "step", "the next question", "z = 0")),
    ):
        for word in words:
            assert any(word in text for text in texts(panel)), word
        assert len(panel.images) == 4
    assert len(parts(learn, FancyArrowPatch)) == 9
    assert len(parts(draw, FancyArrowPatch)) == 8


def test_lines_differ_in_colour_and_dashes_and_have_a_legend():
    _, (panel,) = plots.panels(1)
    curves = {"one": [1.0, 2.0], "two": [3.0, 1.0]}
    plots.lines(panel, [0, 5], curves, xlabel="t", yscale="log")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["one", "two"]
    assert (panel.get_xlabel(), panel.get_yscale()) == ("t", "log")
    for line, values in zip(panel.lines, curves.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([[0, 5], values], axis=1))
    assert len({line.get_color() for line in panel.lines}) == len({line.get_linestyle() for line in panel.lines}) == 2
    _, (panel,) = plots.panels(1)
    plots.lines(panel, [0, 5], curves, legend=False)
    assert panel.get_legend() is None


def test_bars_have_their_values_above_them():
    _, (panel,) = plots.panels(1)
    plots.bars(panel, {"small": 2.468, "large": 1.0}, ylabel="nats")
    assert [patch.get_height() for patch in panel.patches] == [2.468, 1.0]
    assert texts(panel) == ["2.47", "1.00"]
    assert panel.get_ylabel() == "nats"

"""Notebook 01: every step runs alone, its exercises have right answers, and what is saved is what the steps give."""

import ast
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest
from support.tiny import ROOT
from test_notebooks import runner

import ddpm_jax as dj

steps = runner.steps
STEPS = steps.steps()
SETUP, LESSONS = STEPS[0], STEPS[1:]
each_step = pytest.mark.parametrize("step", LESSONS, ids=lambda step: step.stem)
each_lesson = pytest.mark.parametrize("step", LESSONS[:-1], ids=lambda step: step.stem)
each_notebook = pytest.mark.parametrize("name", [steps.ENGLISH, steps.KOREAN])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"<details>\s*<summary>(?:Answer|정답)</summary>(.*?)</details>", re.DOTALL)
EQUATION = re.compile(r"\$\$(.*?)\$\$", re.DOTALL)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def source(step, kind, **options):
    """The cells of one kind of a step, as text."""
    return [cell.source for cell in steps.cells(step, **options) if cell.cell_type == kind]


def equations(text):
    """The equations of a text, in order, without differences of spaces."""
    return [" ".join(equation.split()) for equation in EQUATION.findall(text)]


def answers(text):
    """The code of the answers of a text, in order, without comments."""
    return [ast.unparse(ast.parse(block)) for answer in ANSWER.findall(text) for block in BLOCK.findall(answer)]


def run(code, names):
    """Runs a cell; what its last line shows, as a notebook would draw it, or None."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    return shown._repr_png_() if hasattr(shown, "_repr_png_") else None


def after_setup():
    """The names that a step finds: those of the first cell and of the set-up."""
    names = {"jax": jax, "jnp": jnp, "np": np, "dj": dj, "os": os, "sys": sys, "re": re, "Path": Path, "smoke": True}
    for code in source(SETUP, "code"):
        run(code, names)
    return names


@pytest.fixture(scope="module", params=LESSONS, ids=lambda step: step.stem)
def ran(request):
    """A step, the names after it has run alone, and what each of its cells showed."""
    os.environ["DDPM_JAX_SMOKE"] = "1"
    names = after_setup()
    shown = [run(code, names) for code in source(request.param, "code")]
    yield request.param, names, shown
    del os.environ["DDPM_JAX_SMOKE"]


@pytest.mark.slow
def test_a_step_runs_alone_and_draws_its_figures(ran):
    step, _, shown = ran
    for code, png in zip(source(step, "code"), shown, strict=True):
        assert png or not steps.FIGURE.match(code), code


@pytest.mark.slow
def test_the_answers_of_a_step_are_right(ran):
    step, names, _ = ran
    for answer in ANSWER.findall("\n".join(source(step, "markdown"))):
        for block in BLOCK.findall(answer):
            exec(compile(block, "<answer>", "exec"), dict(names))


@each_lesson
def test_a_step_has_three_exercises_whose_answers_assert_them(step):
    text = "\n".join(source(step, "markdown"))
    assert "**What you should see.**" in text
    _, _, exercises = text.partition("### Exercises")
    found = ANSWER.findall(exercises)
    assert len(found) == len(ANSWER.findall(text)) == 3
    for answer in found:
        assert "assert" in BLOCK.findall(answer)[-1].splitlines()[-1]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.stem)
def test_cells_are_short_and_narrow(step):
    for code in source(step, "code"):
        lines = code.splitlines()
        assert len(lines) <= 12, code
        assert max(map(len, lines)) <= 100, code


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.stem)
def test_the_korean_text_has_the_equations_and_the_answers_of_the_english(step):
    if not steps.korean(step).exists() and not (ROOT / "notebooks" / steps.KOREAN).exists():
        pytest.skip("the Korean text of the steps is not there")
    ours, korean = (source(step, "markdown", in_korean=in_korean) for in_korean in (False, True))
    for text, translated in zip(ours, korean, strict=True):
        assert equations(translated) == equations(text)
        assert answers(translated) == answers(text)


@each_notebook
def test_the_saved_notebook_is_what_the_steps_give(name):
    path = ROOT / "notebooks" / name
    if name not in steps.names():
        pytest.skip("the Korean text of the steps is not there")
    saved = nbformat.read(path, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in saved.cells] == [
        (cell.cell_type, cell.source) for cell in runner.opened(path).cells
    ]
    first = next(cell for cell in saved.cells if cell.cell_type == "code")
    assert (first.source, first.metadata) == (runner.OPENING, runner.FOLDED)


def test_the_figures_of_the_lecture_are_those_of_the_saved_notebook():
    drawn = steps.figures(nbformat.read(ROOT / "notebooks" / steps.ENGLISH, as_version=4))
    assert {path.stem: path.read_bytes() for path in steps.IMAGES.glob("*")} == drawn
    assert max(map(len, drawn.values()), default=0) <= 150_000


def test_the_notebook_takes_over_the_outputs_of_unchanged_code(tmp_path):
    """And the Korean notebook is made once every step has its text, with the same code."""
    (tmp_path / "lecture" / "ko").mkdir(parents=True)
    (tmp_path / "lecture" / "00_a.py").write_text(
        "# %% [markdown]\n# # One\n\n# %%\n1\n\n# %%\n2\n\n# %% [markdown]\n# Two\n"
    )
    assert steps.names(tmp_path) == [steps.ENGLISH]
    notebook = steps.made(tmp_path / steps.ENGLISH)
    assert [cell.source for cell in notebook.cells] == ["# One", "", "1", "2", "Two"]
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="one")]
    notebook.cells[3].source = "3"
    nbformat.write(notebook, tmp_path / steps.ENGLISH)
    assert [len(cell.get("outputs", [])) for cell in steps.made(tmp_path / steps.ENGLISH).cells] == [0, 0, 1, 0, 0]
    translated = tmp_path / "lecture" / "ko" / "00_a.md"
    translated.write_text("# Hana\n\n<!-- cell -->\n\nDul\n")
    assert steps.names(tmp_path) == [steps.ENGLISH, steps.KOREAN]
    assert [cell.source for cell in steps.made(tmp_path / steps.KOREAN).cells] == ["# Hana", "", "1", "2", "Dul"]
    translated.write_text("# Hana\n")
    with pytest.raises(ValueError, match=r"00_a\.md has 1 cells of text, the step 00_a\.py has 2$"):
        steps.made(tmp_path / steps.KOREAN)


def test_a_korean_notebook_that_is_saved_needs_the_text_of_every_step(tmp_path):
    (tmp_path / "lecture").mkdir()
    (tmp_path / "lecture" / "00_a.py").write_text("# %% [markdown]\n# # One\n")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / steps.KOREAN)
    assert steps.names(tmp_path) == [steps.ENGLISH, steps.KOREAN]
    with pytest.raises(ValueError, match=r"00_a\.md has 0 cells of text"):
        steps.made(tmp_path / steps.KOREAN)


def test_a_figure_is_the_picture_of_its_cell(tmp_path):
    picture = nbformat.v4.new_output("display_data", {"image/png": "aGVsbG8=\n"})
    cell = nbformat.v4.new_code_cell("# figure: 02_kernel\nfigure", outputs=[picture])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("figure", outputs=[picture]), cell])
    steps.save_figures(notebook, tmp_path / "notes")
    assert {path.name: path.read_bytes() for path in (tmp_path / "notes").iterdir()} == {"02_kernel.png": b"hello"}
    cell.outputs = []
    with pytest.raises(ValueError, match=r"^the cell of the figure 02_kernel has drawn 0 figures$"):
        steps.figures(notebook)

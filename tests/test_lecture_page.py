"""The lecture, docs/notes.md: its rows are complete, every line of a derivation has a test, and Korean is the same."""

import ast
import re

import pytest
from support.tiny import ROOT
from test_lecture_notebook import EQUATION, LESSONS, equations, source, steps

PAGE = (ROOT / "docs" / "notes.md").read_text()
KOREAN = ROOT / "docs" / "ko" / "notes.md"
HEADING = re.compile(r"^## (\d+)\. (.+)$", re.MULTILINE)
LINE = re.compile(
    r"^<small>\((\d+)\.(\d+)\) `(test_lecture_(\d\d)\.py)::(test_\w+)`(?: \([^)]*\))?</small>$", re.MULTILINE
)
PARTS = (
    "**Question.**",
    "<summary>Derivation",
    "**In one sentence.**",
    "**In the code.**",
    "**References.**",
)
ROWS = range(1, 20)
each_row = pytest.mark.parametrize("row", ROWS)


def section(row, page=PAGE):
    """The text of a row, below its heading."""
    begin = re.search(rf"^## {row}\. .+$", page, re.MULTILINE).end()
    end = re.search(r"^## ", page[begin:], re.MULTILINE)
    return page[begin : begin + end.start()] if end else page[begin:]


def anchor(title):
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def asserted_by(row):
    """The names of the tests of the lines of a row, in the order of the file."""
    path = ROOT / "tests" / f"test_lecture_{row:02d}.py"
    names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if re.match(rf"test_{row}_\d+_", name)]


def test_the_page_has_every_row_once():
    assert [int(number) for number, _ in HEADING.findall(PAGE)] == [*ROWS]


@each_row
def test_a_row_has_its_parts_in_order(row):
    places = [section(row).find(part) for part in PARTS]
    assert -1 not in places, PARTS[places.index(-1)]
    assert places == sorted(places)
    assert re.search(r"\]\(https://(arxiv\.org|doi\.org|[\w.]+)/\S+\)", section(row).partition(PARTS[-1])[2])


@each_row
def test_every_line_of_a_derivation_has_its_number_and_a_test_that_exists(row):
    lines = LINE.findall(section(row))
    assert [(int(n), int(k)) for n, k, *_ in lines] == [(row, k) for k in range(1, len(lines) + 1)]
    assert lines
    for n, k, _, file, name in lines:
        assert int(file) == row
        assert name.startswith(f"test_{n}_{k}_")
        assert name in asserted_by(row)
    assert sorted(name for *_, name in lines) == sorted(asserted_by(row))


@each_row
def test_the_figures_of_a_row_are_drawn_by_its_step(row):
    (step,) = [step for step in LESSONS if step.name.startswith(f"{row:02d}_")]
    drawn = [found[1] for code in source(step, "code") if (found := steps.FIGURE.match(code + "\n"))]
    shown = re.findall(r"!\[[^\]]{30,}\]\(images/notes/(\w+)\.png\)", section(row))
    assert shown
    assert set(shown) == set(drawn)


def test_the_korean_page_has_the_same_equations_lines_figures_and_anchors():
    if not KOREAN.exists():
        pytest.skip("docs/ko/notes.md is not there")
    page = KOREAN.read_text()
    assert [int(number) for number, _ in HEADING.findall(page)] == [*ROWS]
    for number, title in HEADING.findall(PAGE):
        ours, korean = section(number), section(number, page)
        assert equations(korean) == equations(ours), number
        assert LINE.findall(korean) == LINE.findall(ours), number
        figures = [re.findall(r"images/notes/(\w+)\.png", text) for text in (ours, korean)]
        assert figures[0] == figures[1], number
        assert re.search(rf'^<a id="{anchor(f"{number}. {title}")}"></a>\n\n## {number}\. ', page, re.MULTILINE), title


def test_equations_are_blocks_between_blank_lines():
    for text in (PAGE, KOREAN.read_text() if KOREAN.exists() else ""):
        for found in EQUATION.finditer(text):
            before, after = text[: found.start()], text[found.end() :]
            assert before.endswith("\n\n"), found[0]
            assert re.match(r"\n(\n|$)", after), found[0]

"""The Korean lecture says what the English one says, as far as a program can see: equations, code, links, and words."""

import posixpath
import re

import pytest
from support.tiny import ROOT
from test_lecture_notebook import STEPS, source
from test_lecture_page import KOREAN, ROWS, section

EQUATION = re.compile(r"\$\$.*?\$\$", re.DOTALL)
FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`]+`")
INLINE = re.compile(r"\$[^$]+\$")
LINK = re.compile(r"\]\(((?:[^()\s]|\([^()\s]*\))+)\)")
DECIMAL = re.compile(r"\d+\.\d+")
HANGUL = re.compile(r"[가-힣]")
GLOSSARY = (ROOT / "docs" / "ko" / "glossary.md").read_text()


def displayed(text):
    """The equations and the blocks of code of a text, in order and to the letter."""
    return EQUATION.findall(FENCE.sub("", text)), [fence[0] for fence in FENCE.finditer(text)]


def spans(text):
    """The names in code, the inline equations and the decimal numbers of a text, in whatever order they stand."""
    words = " ".join(EQUATION.sub("", FENCE.sub("", text)).split())
    prose = CODE.sub("", words)
    return set(CODE.findall(words)), set(INLINE.findall(prose)), set(DECIMAL.findall(LINK.sub("](", prose)))


def links(text, folder):
    """What a text links to and shows, by its path in the repository, the Korean lecture as the English one."""
    found = LINK.findall(text)
    paths = [link if "://" in link else posixpath.normpath(posixpath.join(folder, link)) for link in found]
    return sorted(path.replace("docs/ko/", "docs/") for path in paths)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_the_equations_the_code_and_the_links_of_the_english_one(row):
    english, korean = section(row), section(row, KOREAN.read_text())
    assert HANGUL.search(korean)
    assert displayed(korean) == displayed(english)
    assert spans(korean) == spans(english)
    assert links(korean, "docs/ko") == links(english, "docs")
    for mark in ("<details markdown>", "<summary>", "</details>", "<small>"):
        assert korean.count(mark) == english.count(mark), mark


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.stem)
def test_every_cell_of_a_step_has_the_equations_the_code_and_the_links_of_the_english_one(step):
    cells = [source(step, "markdown", in_korean=in_korean) for in_korean in (False, True)]
    for english, korean in zip(*cells, strict=True):
        assert HANGUL.search(korean)
        assert displayed(korean) == displayed(english)
        assert spans(korean.replace("`docs/ko/", "`docs/")) == spans(english)
        assert links(korean, "notebooks") == links(english, "notebooks")


def test_the_glossary_is_in_alphabetical_order_and_has_a_word_once():
    rows = [line.split(" | ") for line in GLOSSARY.splitlines() if re.search(r"\(notes\.md#\S+\) \|$", line)]
    words = [row[0].removeprefix("| ").lower() for row in rows]
    assert words == sorted(set(words))
    assert len(words) > 100
    assert all(HANGUL.search(row[1]) for row in rows)

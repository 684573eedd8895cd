"""The Korean lecture has the equations, numbers, tests, figures and links of the English one, in the same order."""

import posixpath
import re

import pytest
from support.tiny import ROOT

ENGLISH, KOREAN = (ROOT / "docs" / name for name in ("notes.md", "ko/notes.md"))
STEPS = sorted((ROOT / "notebooks" / "lecture").glob("[0-9][0-9]_*.py"))
EQUATION = re.compile(r"\$\$.*?\$\$", re.DOTALL)
FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## (\d+\. .*)$", re.MULTILINE)
HANGUL = re.compile(r"[가-힣]")


def anchor(heading):
    """The anchor that a repository host and the site give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def sections(text):
    """The text of each numbered section."""
    heads = list(HEADING.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {int(head[1].partition(".")[0]): text[head.end() : end] for head, end in zip(heads, ends, strict=True)}


def links(text, folder):
    """What a text links to and shows, by its path in the repository."""
    found = re.findall(r"\]\(([^()\s]+)\)", text)
    return sorted(link if ":" in link else posixpath.normpath(posixpath.join(folder, link)) for link in found)


def inline(text):
    """The inline equations of a text without its displayed ones and its code."""
    text = EQUATION.sub("", FENCE.sub("", text))
    return sorted(re.findall(r"(?<!\$)\$[^$\n]+\$(?!\$)", re.sub(r"`[^`\n]+`", "", text)))


def english_cells(path):
    """The cells of Markdown of a step."""
    cells = re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)[1:]
    text = [cell.partition("\n")[2] for cell in cells if cell.startswith(" [markdown]")]
    return [re.sub(r"^# ?", "", cell, flags=re.MULTILINE).strip() for cell in text]


def korean_cells(path):
    """Their translations."""
    text = (path.parent / "ko" / f"{path.stem}.md").read_text()
    return [cell.strip() for cell in re.split(r"^<!-- cell -->$", text, flags=re.MULTILINE)]


def test_the_sections_are_the_same_and_have_the_anchors_of_the_english_ones():
    english, korean = ENGLISH.read_text(), KOREAN.read_text()
    assert list(sections(korean)) == list(sections(english))
    given = re.findall(r'^<a id="([^"]+)"></a>\n\n## (\d+)\. ', korean, re.MULTILINE)
    assert [name for name, _ in given] == [anchor(heading) for heading in HEADING.findall(english)]


@pytest.mark.parametrize("number", sections(ENGLISH.read_text()))
def test_a_section_has_the_same_equations_numbers_tests_code_and_links(number):
    english, korean = sections(ENGLISH.read_text())[number], sections(KOREAN.read_text())[number]
    assert HANGUL.search(korean)
    assert EQUATION.findall(korean) == EQUATION.findall(english)
    assert re.findall(r"^<small>.*</small>$", korean, re.MULTILINE) == re.findall(
        r"^<small>.*</small>$", english, re.MULTILINE
    )
    assert [fence[0] for fence in FENCE.finditer(korean)] == [fence[0] for fence in FENCE.finditer(english)]
    assert set(re.findall(r"`[^`\n]+`", korean)) == set(re.findall(r"`[^`\n]+`", english))
    assert links(korean, "docs/ko") == links(english, "docs")
    assert korean.count("<details") == english.count("<details")


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_every_cell_of_a_step_is_translated_with_its_equations_and_code(path):
    english, korean = english_cells(path), korean_cells(path)
    assert len(korean) == len(english)
    for original, translated in zip(english, korean, strict=True):
        assert HANGUL.search(translated)
        assert EQUATION.findall(translated) == EQUATION.findall(original)
        assert inline(translated) == inline(original)
        assert [fence[0] for fence in FENCE.finditer(translated)] == [fence[0] for fence in FENCE.finditer(original)]
        assert links(translated, "notebooks") == links(original, "notebooks")
        assert translated.count("<details") == original.count("<details")


def test_the_glossary_is_in_alphabetical_order_and_has_a_word_once():
    table = (ROOT / "docs" / "ko" / "glossary.md").read_text().splitlines()
    rows = [line.split(" | ") for line in table if re.search(r"\(notes\.md#\S+\) \|$", line)]
    words = [row[0].removeprefix("| ").lower() for row in rows]
    assert words == sorted(set(words))
    assert len(words) > 100
    assert all(HANGUL.search(row[1]) for row in rows)

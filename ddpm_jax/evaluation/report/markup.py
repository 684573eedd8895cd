"""HTML from values: elements, tables and figures, in which every text that is not HTML already is escaped."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = ("img", "input")


class Html(str):
    """Text that is HTML; any other text is escaped where it becomes a part of it."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """The value itself if it is HTML, or else its text with the characters of HTML's syntax escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(*parts: object) -> Html:
    """The parts one after the other."""
    return Html("".join(map(escaped, parts)))


def element(name: str, *content: object, **attributes: Any) -> Html:
    """An element with its content and its attributes.

    Args:
      name: the tag.
      *content: HTML, or values whose text is escaped.
      **attributes: their values; `_` stands for `-`, one at the end is dropped (`class_`); None leaves one out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{start}>" + ("" if name in _VOID else f"{joined(*content)}</{name}>"))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, name: str = "") -> Html:
    """A table with a caption, whose first column names the rows; it scrolls where the page is narrow.

    Args:
      head: the names of the columns; () for a table without them.
      rows: the cells, row by row.
      caption: what the table shows.
      name: the class of the table for its style.
    """
    top = [element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))] if head else []
    lines = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    whole = element("table", element("caption", caption), *top, element("tbody", *lines), class_=name or None)
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def figure(content: object, caption: object, *, name: str = "") -> Html:
    """Content with the caption that says what one sees, and a class for its style."""
    return element("figure", content, element("figcaption", caption), class_=name or None)


def paragraph(*content: object) -> Html:
    """A paragraph."""
    return element("p", *content)


def code(text: str) -> Html:
    """A command as a block, which scrolls where the page is narrow."""
    return element("pre", element("code", text), tabindex=0)

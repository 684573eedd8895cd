"""Notebook 01, made from its steps: `lecture/NN_name.py`, a file per step in the percent format of jupytext.

The English text stands in the steps. The Korean text stands in `lecture/ko/NN_name.md`, a file per step: its cells,
with a line `<!-- cell -->` between two of them, replace the text cells of the step in their order. Both notebooks have
the code of the steps. A code cell whose first line is `# figure: NAME` draws `docs/images/notes/NAME.png`.
"""

import base64
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
IMAGES = FOLDER.parent / "docs" / "images" / "notes"
ENGLISH, KOREAN = "01_the_notes.ipynb", "01_the_notes_ko.ipynb"
FIGURE = re.compile(r"# figure: (\w+)\n")
_BETWEEN = re.compile(r"^<!-- cell -->\n", re.MULTILINE)


def steps(folder: Path = FOLDER) -> list[Path]:
    """The files of the steps, in order."""
    return sorted((folder / "lecture").glob("[0-9][0-9]_*.py"))


def names(folder: Path = FOLDER) -> list[str]:
    """The notebooks that are made from the steps of a folder; the Korean one once the text of every step exists."""
    if not steps(folder):
        return []
    complete = all(korean(step).exists() for step in steps(folder))
    return [ENGLISH, KOREAN] if complete or (folder / KOREAN).exists() else [ENGLISH]


def korean(step: Path) -> Path:
    """The file with the Korean text of a step."""
    return step.parent / "ko" / f"{step.stem}.md"


def cells(step: Path, *, in_korean: bool = False) -> list[NotebookNode]:
    """The cells of a step, in English or in Korean.

    Raises:
      ValueError: the Korean text is not there, or has another number of cells.
    """
    found = _notebook(jupytext.read(step, fmt="py:percent")).cells
    texts = [cell for cell in found if cell.cell_type == "markdown"]
    if in_korean:
        path = korean(step)
        translated = [text.strip() for text in _BETWEEN.split(path.read_text())] if path.exists() else []
        if len(translated) != len(texts):
            raise ValueError(f"{path} has {len(translated)} cells of text, the step {step.name} has {len(texts)}")
        for cell, text in zip(texts, translated, strict=True):
            cell.source = text
    return found


def made(path: Path) -> NotebookNode:
    """Notebook 01 as the steps beside it give it, with an empty first code cell, and with the outputs saved in `path`.

    An output is kept where the code of its cell has not changed.
    """
    title, *rest = [cell for step in steps(path.parent) for cell in cells(step, in_korean=path.name == KOREAN)]
    notebook = nbformat.v4.new_notebook(cells=[title, nbformat.v4.new_code_cell(""), *rest])
    saved = _notebook(nbformat.read(path, as_version=4)).cells if path.exists() else []
    outputs = {cell.source: cell.outputs for cell in saved if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = outputs.get(cell.source, [])
    return notebook


def figures(notebook: NotebookNode) -> dict[str, bytes]:
    """The figures of the lecture in a notebook that has run: by name, a PNG each.

    Raises:
      ValueError: a cell that should draw a figure has not drawn exactly one.
    """
    found = {}
    for cell in notebook.cells:
        named = FIGURE.match(cell.source) if cell.cell_type == "code" else None
        if named:
            drawn = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
            if len(drawn) != 1:
                raise ValueError(f"the cell of the figure {named[1]} has drawn {len(drawn)} figures")
            found[named[1]] = base64.b64decode(drawn[0])
    return found


def save_figures(notebook: NotebookNode, folder: Path = IMAGES) -> None:
    """Writes the figures of the lecture."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in figures(notebook).items():
        (folder / f"{name}.png").write_bytes(png)


def _notebook(read: object) -> NotebookNode:
    """What a library has read, whose types allow for other things too."""
    assert isinstance(read, NotebookNode)
    return read

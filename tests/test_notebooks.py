"""Every notebook runs from top to bottom, in few steps and without a network; what is saved is what they showed."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from support.tiny import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
import run as runner

NOTEBOOKS = runner.notebooks()
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def smoke(*arguments):
    """Runs Python in few steps, on one device, without a network, in a process of its own."""
    env = {**os.environ, "DDPM_JAX_SMOKE": "1", "HF_HUB_OFFLINE": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    env["XLA_FLAGS"] = env["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_from_top_to_bottom(path):
    before = path.read_bytes()
    done = smoke(ROOT / "notebooks" / "run.py", path.name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{path.name} ... ")
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_warning_fails_a_notebook_and_nothing_is_saved(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("", "import warnings; warnings.warn('mind')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
    before = (tmp_path / "x.ipynb").read_bytes()
    program = (
        f"import sys; sys.path.insert(0, 'notebooks'); import run; run.FOLDER = run.Path({str(tmp_path)!r}); run.main()"
    )
    done = smoke("-c", program)
    assert done.returncode == 1
    assert "error: x.ipynb ends with UserWarning: mind\n" in done.stderr
    assert (tmp_path / "x.ipynb").read_bytes() == before


@each_notebook
def test_a_notebook_is_saved_as_the_runner_saves_it(path):
    """With outputs, small, and with the opening of this version."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[0].source == runner.OPENING
    assert path.stat().st_size <= runner.MAX_BYTES
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert "/tmp/" not in path.read_text()
    assert nbformat.writes(runner.plain(notebook)) + "\n" == path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_is_short_and_a_picture_is_followed_by_what_it_shows(path):
    """At most 12 lines of 100 columns, the opening excepted; the plots of the loss of a run share one text."""
    first, *cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.source != runner.OPENING]
    assert first.cell_type == "markdown"
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.source
        assert max(map(len, lines)) <= 100, cell.source
        pictured = re.match(r"(dj\.plots\.(?!live)|dj\.picture|display)", lines[-1].strip())
        if pictured:
            assert following is not None and following.source.startswith("**What you should see.**"), cell.source  # noqa: PT018

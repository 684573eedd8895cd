"""Every notebook runs from top to bottom, in few steps and without a network; what is saved is what they showed."""

import os
import sys

import nbformat
import pytest

from ddpm_jax import config

sys.path.insert(0, str(config._EXPERIMENTS.parent / "notebooks"))
import run as runner

NOTEBOOKS = runner.notebooks()


@pytest.fixture
def smoke(monkeypatch, quick_compilation):
    """Few steps, one device, and nothing that asks the network."""
    monkeypatch.setenv("DDPM_JAX_SMOKE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"))


def code_cells(path):
    """The code cells of a notebook as it is saved."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, smoke):
    before = path.read_bytes()
    shown = [cell for cell in runner.execute(path).cells if cell.cell_type == "code"]
    assert path.read_bytes() == before
    assert any("image/png" in output.get("data", {}) for cell in shown for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_as_the_runner_saves_it(path):
    """With outputs, small, and with the opening of this version."""
    cells = code_cells(path)
    assert cells[0].source == runner.OPENING
    assert path.stat().st_size <= runner.MAX_BYTES
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    notebook = nbformat.read(path, as_version=4)
    assert nbformat.writes(runner._plain(notebook)) + "\n" == path.read_text()


@pytest.mark.slow
def test_a_warning_fails_a_notebook(tmp_path, smoke):
    cells = [nbformat.v4.new_code_cell(source) for source in ("", "import warnings; warnings.warn('mind')")]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(Exception, match="UserWarning"):
        runner.execute(path)

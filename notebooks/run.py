"""Runs the notebooks from top to bottom and saves them with their outputs.

  python notebooks/run.py                  runs all notebooks
  python notebooks/run.py 01 03            runs those whose names begin with 01 or 03
  python notebooks/run.py --opening        runs none, and only writes the first cell of each, and the steps of 01

Needs `pip install -r requirements-dev.txt`. The first code cell of each is `OPENING`; 01 is made from the files of
`lecture/` (`steps.py`), and its figures are saved for docs/notes.md. Outputs are saved without time stamps and without
progress bars, sliders as pictures. With DDPM_JAX_SMOKE=1 in the environment, as in the tests, every notebook takes only
a few steps in a temporary folder, and nothing is saved.
"""

import argparse
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    import nbformat
    import steps
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import NotebookNode
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed: pip install -r requirements-dev.txt")

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
(VERSION,) = re.findall(r'^__version__ = "(.+?)"', (ROOT / "ddpm_jax" / "__init__.py").read_text(), re.MULTILINE)
MAX_BYTES = 3_000_000
CELL_SECONDS = 1800

OPENING = f"""\
# @title Install and import ddpm_jax (run this cell first)
# In Colab this installs ddpm_jax at the version of this notebook; elsewhere it imports it: from its clone, if that is
# the folder of this notebook or the one above, otherwise as installed.
import importlib.metadata, os, re, subprocess, sys, tempfile
from pathlib import Path

REPOSITORY, VERSION = "{PROJECT["urls"]["Repository"]}", "{VERSION}"


class Failure(Exception):
    def _render_traceback_(self):  # what a notebook shows: one line
        return [f"error: {{self}}"]


def install():
    gpu = os.path.exists("/dev/nvidia0")
    tpu = os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0") or os.environ.get("COLAB_TPU_1VM")
    extra = "[cuda12]" if gpu else "[tpu]" if tpu else ""
    command = [sys.executable, "-m", "pip", "install", "-q", f"ddpm_jax{{extra}} @ git+{{REPOSITORY}}@v{{VERSION}}"]
    print(f"installing {{command[-1]}} (a minute or two)")
    done = subprocess.run(command, env=os.environ | {{"GIT_TERMINAL_PROMPT": "0"}}, capture_output=True, text=True)
    if done.returncode:
        said = re.search("(fatal|error|ERROR): (?!subprocess).*", done.stderr)
        raise Failure(
            f"ddpm_jax cannot be installed ({{said.group() if said else 'by pip'}}); is there a network connection, "
            f"and does {{REPOSITORY}} have the tag v{{VERSION}}?"
        )
    importlib.invalidate_caches()


clones = [folder for folder in (Path(), Path("..")) if (folder / "ddpm_jax" / "__init__.py").exists()]
sys.path[:0] = [str(folder.resolve()) for folder in clones[:1]]
if "google.colab" in sys.modules and not clones:
    installed = next(importlib.metadata.distributions(name="ddpm_jax"), None)
    if installed is None or installed.version != VERSION:  # it is there after a restart of the runtime
        install()

import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax as dj

smoke = "DDPM_JAX_SMOKE" in os.environ  # few steps, for the tests
runs = Path(tempfile.mkdtemp()) if smoke else Path(*clones[:1], "runs")
print(f"jax {{jax.__version__}} on {{jax.device_count()}} x {{jax.devices()[0].device_kind}}")
if jax.default_backend() == "cpu":
    print("on the CPU, which is enough for digits; for larger images, in Colab: Runtime > Change runtime type > GPU")"""

# How a notebook shows that cell: closed, in Colab (which shows the title of its first line) and in Jupyter.
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}

# Warnings are errors in the notebooks too, except those of the kernel itself.
_STRICT = """\
import warnings
warnings.simplefilter("error")
for module in ("ipykernel", "IPython", "jupyter_client", "tornado", "traitlets", "zmq", "asyncio"):
    warnings.filterwarnings("ignore", module=module)"""


class _Kernel(AsyncKernelManager):
    """A kernel of the interpreter that runs this program, regardless of the installed kernels."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts the kernel."""
        arguments = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=arguments, display_name="Python 3", language="python")


def notebooks(*beginnings: str) -> list[Path]:
    """The notebooks whose names begin with one of these texts, or all notebooks, in order."""
    found = {*FOLDER.glob("*.ipynb"), *(FOLDER / name for name in steps.names(FOLDER))}
    return [path for path in sorted(found) if path.name.startswith(beginnings or "")]


def opened(path: Path) -> NotebookNode:
    """The notebook as it is saved, or as its steps give it, with the first code cell that is written here."""
    is_made = path.name in steps.names(path.parent)
    notebook = steps.made(path) if is_made else nbformat.read(path, as_version=4)
    assert isinstance(notebook, NotebookNode)
    next(cell for cell in notebook.cells if cell.cell_type == "code").source = OPENING
    return notebook


def execute(path: Path) -> NotebookNode:
    """Runs a notebook from top to bottom in the repository's root, and returns it with its outputs.

    Raises:
      CellExecutionError: a cell ends with an error or a warning.
    """
    notebook = opened(path)
    cells = notebook.cells
    notebook.cells = [nbformat.v4.new_code_cell(_STRICT), *cells]
    options = {"timeout": CELL_SECONDS, "coalesce_streams": True, "record_timing": False}
    with _own_folders():
        client = NotebookClient(
            notebook, km=_Kernel(transport="ipc"), resources={"metadata": {"path": str(ROOT)}}, **options
        )
        client.execute(cleanup_kc=True)
    notebook.cells = cells
    return plain(notebook)


@contextmanager
def _own_folders() -> Iterator[None]:
    """Keeps the kernel's files out of the user's folders."""
    with TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ |= {f"{name}_DIR": f"{folder}/{name}" for name in ("IPYTHON", "JUPYTER_CONFIG", "JUPYTER_RUNTIME")}
        os.environ |= {"IPYTHONDIR": f"{folder}/ipython", "MPLBACKEND": "agg", "TMPDIR": folder}
        os.environ["DDPM_JAX_STATIC"] = "1"
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def plain(notebook: NotebookNode) -> NotebookNode:
    """Removes what differs between runs (progress bars, execution counts, kernels), in place; returns the notebook."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", FOLDED if cell.source == OPENING else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_kept, cell.outputs) if output]
            cell.execution_count = count = count + 1
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    return notebook


def _kept(output: NotebookNode) -> NotebookNode | None:
    """The output without progress bars and without the text that replaces a picture; None if nothing is left."""
    if output.output_type == "stream":
        lines = [line.split("\r")[-1] for line in output.text.split("\n")]
        output.text = "\n".join(line for line in lines if line.strip() and not re.search(r"\d+%\|", line))
        output.text += "\n" if output.text else ""
        return output if output.text else None
    output.pop("transient", None)
    if "image/png" in output.get("data", {}):
        output.data.pop("text/plain", None)
        output.metadata = {}
    return output


def main() -> None:
    """Runs and saves the notebooks, with a line for each, or only writes their first cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="the beginning of a notebook's name (default: all notebooks)"
    )
    parser.add_argument("--opening", action="store_true", help="run none, and only write the cells that are made")
    args = parser.parse_args()
    chosen = notebooks(*args.names)
    if not chosen:
        parser.error(f"there is no notebook of that name; there are {', '.join(path.stem for path in notebooks())}")
    if args.opening:
        for path in chosen:
            path.write_text(nbformat.writes(plain(opened(path))) + "\n")
        return
    smoke = "DDPM_JAX_SMOKE" in os.environ
    for path in chosen:
        begin = time.perf_counter()
        print(f"{path.name} ...", end=" ", flush=True)
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            sys.exit(f"error: {path.name} ends with {error.ename}: {error.evalue}\n\n{error.traceback}")
        text = nbformat.writes(notebook) + "\n"
        print(f"{time.perf_counter() - begin:.0f} s, {len(text) / 1e6:.2f} MB", flush=True)
        if len(text) > MAX_BYTES:
            sys.exit(f"error: {path.name} is larger than {MAX_BYTES / 1e6} MB: draw fewer or coarser pictures")
        if not smoke:
            path.write_text(text)
            if path.name == steps.ENGLISH:
                steps.save_figures(notebook)


if __name__ == "__main__":
    main()

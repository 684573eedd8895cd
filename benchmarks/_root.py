"""Puts the repository on the import path, so that a benchmark runs from a clone that is not installed.

A benchmark that needs a package which is not installed ends with one line that says what to install.
"""

import sys
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).parents[1]))


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints a missing package as one line, and every other exception as Python does."""
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(("_", "ddpm_jax")):
        print(f"error: {error.name} is not installed: pip install -r requirements-dev.txt", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _one_line

"""Progress bars, the same everywhere: updated often on a terminal or in a notebook, twice a minute in a log file."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from ddpm_jax.runtime.devices import is_first


def on_terminal() -> bool:
    """Whether stderr is a terminal, where a person reads it."""
    return sys.stderr.isatty()


def in_notebook() -> bool:
    """Whether the output goes to a Jupyter kernel."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def progress_bar(total: int, name: str, *, unit: str, **options: Any) -> tqdm:
    """A tqdm bar on the stderr of the first process.

    In a notebook it disappears when it is full; where it is neither on a terminal nor in a notebook, it is written only
    every half minute.

    Args:
      total: the number of units at the end.
      name: the text before the bar.
      unit: the name of what is counted, such as "step".
      **options: further arguments of tqdm.
    """
    lively = on_terminal() or in_notebook()
    options = {"disable": not is_first(), "mininterval": 0.1 if lively else 30.0, "leave": not in_notebook(), **options}
    width: dict[str, Any] = {"ncols": 80, "nrows": 24} if _without_width() else {"dynamic_ncols": True}
    return tqdm(total=total, desc=name, unit=unit, smoothing=0.05, **{**width, **options})


@contextlib.contextmanager
def waiting(what: str, *, every: float = 30.0) -> Iterator[None]:
    """Prints on stderr how long the `with` statement has taken so far, every so many seconds, on the first process."""
    done = threading.Event()
    begin = time.monotonic()

    def tell() -> None:
        while not done.wait(every):
            print(f"{what}: {time.monotonic() - begin:,.0f} s so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    if is_first():
        thread.start()
    try:
        yield
    finally:
        done.set()


def _without_width() -> bool:
    """Whether stderr is a terminal that says that it has 0 columns, on which tqdm would write nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError, AttributeError):  # not a terminal
        return False

"""Progress bars, the same everywhere: lively where a person looks on, a line now and then in the log of a job."""

import sys

from tqdm import tqdm

from ddpm_jax.runtime.devices import is_first


def on_terminal():
    """Whether a person is looking at stderr."""
    return sys.stderr.isatty()


def in_notebook():
    """Whether the output goes to a Jupyter kernel."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def progress_bar(total, name, *, unit, **options):
    """A tqdm bar on the stderr of the first process.

    In a notebook it goes when it is full; where nobody looks on it writes every half minute only.
    """
    lively = on_terminal() or in_notebook()
    options = {"disable": not is_first(), "mininterval": 0.1 if lively else 30.0, "leave": not in_notebook(), **options}
    return tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True, smoothing=0.05, **options)

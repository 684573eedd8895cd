"""Progress bars, the same everywhere: lively on a terminal, a line now and then in the log of a job."""

import sys

from tqdm import tqdm

from ddpm_jax.parallel import is_first


def on_terminal():
    """Whether a person is looking at stderr."""
    return sys.stderr.isatty()


def progress_bar(total, name, *, unit, **options):
    """A tqdm bar on the stderr of the first process; without a terminal it writes every half minute only."""
    options = {"disable": not is_first(), "mininterval": 0.1 if on_terminal() else 30.0, **options}
    return tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True, smoothing=0.05, **options)

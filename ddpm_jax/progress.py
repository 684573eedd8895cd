"""Progress bars, the same everywhere: lively on a terminal, a line now and then in the log of a job."""

import sys

from tqdm import tqdm


def on_terminal():
    """Whether a person is looking at stderr."""
    return sys.stderr.isatty()


def progress_bar(total, name, *, unit, **options):
    """A tqdm bar on stderr; without a terminal it writes every half minute only."""
    interval = 0.1 if on_terminal() else 30.0
    return tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True, mininterval=interval, smoothing=0.05, **options)

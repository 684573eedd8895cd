"""Progress bars, the same everywhere: lively on a terminal, a line now and then in the log of a job."""

import sys

from tqdm import tqdm


def progress_bar(total, name, *, unit, initial=0):
    """A tqdm bar on stderr; without a terminal it writes every half minute only."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        desc=name,
        unit=unit,
        initial=initial,
        dynamic_ncols=True,
        mininterval=interval,
        smoothing=0.05,
    )

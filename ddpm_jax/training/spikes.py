"""Spikes of the loss: steps whose loss is far above that of the steps before, which are noted and not acted upon.

`config.train.divergence_threshold` acts on them; see `divergence.py`.
"""

from collections import deque

import numpy as np

from ddpm_jax.training.divergence import WINDOW

_DEVIATIONS = 12.0  # median absolute deviations above the median: 8 standard deviations of a Gaussian


class Spikes:
    """Finds the spikes among the losses of a run, each against the `WINDOW` losses before it, once there are so many.

    The losses before the start of a process are not known to it, so it finds none in its first steps.
    """

    def __init__(self) -> None:
        self._losses = deque[float](maxlen=WINDOW)

    def median_below(self, loss: float) -> float | None:
        """Takes the next loss; returns the median of those before if it is a spike above them, or None."""
        earlier = np.array(self._losses)
        self._losses.append(loss)
        if len(earlier) < WINDOW:
            return None
        median = float(np.median(earlier))
        deviation = float(np.median(np.abs(earlier - median)))
        return median if loss - median > _DEVIATIONS * deviation else None

"""The table of feature extractors by name. Read next: `extractors.py`, `published.py`."""

import os
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ddpm_jax.errors import UserError, did_you_mean
from ddpm_jax.evaluation import published
from ddpm_jax.evaluation.extractors import Extractor, of_classifier, of_pixels
from ddpm_jax.metrics.resize import PROTOCOLS
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.paths import any_path, holds_checkpoints

Weights: TypeAlias = str | os.PathLike[str] | None
"""The published file of a network's weights, or None if it is known already."""

NEED_WEIGHTS: dict[str, Callable[[Weights], Extractor]] = {
    **{name: partial(published.inception, name) for name in PROTOCOLS},
    **{name: partial(published.dinov2, name) for name in published.DINOV2},
}
"""The extractors of published networks by name."""

NEED_NOTHING: dict[str, Callable[[], Extractor]] = {"pixels": of_pixels}
"""The extractors without a network by name."""

NAMES = (*NEED_WEIGHTS, *NEED_NOTHING)


def extractor(name: str, *, weights: Weights = None) -> Extractor:
    """The extractor of a name, or of the work directory of a classifier that was trained here.

    Args:
      name: one of `NAMES`, or a path.
      weights: the published file of the network's weights, where it is not known yet.

    Raises:
      UserError: there is no such extractor, or its weights are missing or are others.
    """
    if name in NEED_WEIGHTS:
        return NEED_WEIGHTS[name](weights)
    if weights is not None:
        raise UserError(f"features={name} needs no weights of a published network, and {os.fspath(weights)} is given")
    if name in NEED_NOTHING:
        return NEED_NOTHING[name]()
    if holds_checkpoints(any_path(name) / "checkpoints"):
        return of_classifier(Run(name))
    hint = did_you_mean(name, NAMES, otherwise=f"choose from {', '.join(NAMES)}")
    raise UserError(f"there are no features {name!r}, and no run of a classifier has this path; {hint}")

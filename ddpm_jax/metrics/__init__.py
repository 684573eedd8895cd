"""Measures of sample quality on arrays of features; what the features are is the caller's choice.

`frechet` (FID), `kernel` (KID), `inception_score`, `precision_recall`, `density_coverage`, `memorisation` and
`calibration` have one measure each; `intervals` gives any of them an interval.
"""

from ddpm_jax.metrics import (
    calibration,
    density_coverage,
    frechet,
    inception_score,
    intervals,
    kernel,
    memorisation,
    precision_recall,
)

__all__ = [
    "calibration",
    "density_coverage",
    "frechet",
    "inception_score",
    "intervals",
    "kernel",
    "memorisation",
    "precision_recall",
]

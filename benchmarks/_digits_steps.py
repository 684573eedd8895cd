"""The Frechet distances of digits over steps and guidance scales, with several seeds, for `digits_quality.py`."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _digits_features import NUM

from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.features import extractor
from ddpm_jax.evaluation.references import of_data
from ddpm_jax.metrics.frechet import Moments, frechet_distance, moments
from ddpm_jax.metrics.precision_recall import precision_recall
from ddpm_jax.runs.run import Run

SEEDS = (0, 1, 2)
SAMPLERS: dict[str, dict[str, str | float]] = {
    "ancestral": {"sampler": "ancestral", "variance": "large", "grid": "trailing"},
    "DDIM": {"sampler": "ddim", "eta": 0.0, "grid": "trailing"},
}
SCALES = (1.5, 5.0)
SCALE_STEPS = 20  # of DDIM


class Row(NamedTuple):
    """What one setting of a chain gives."""

    distances: Mapping[str, Sequence[float]]
    """The Frechet distance by features, one for each seed."""
    precision: float
    recall: float
    variance: float
    """The variance of the pixels, summed over the pixels, relative to that of the training digits."""


class Distances:
    """Measures samples of a run against all training digits; the features are kept in the run's cache.

    Args:
      features: the names of the extractors, to which pixels are added.
      run: the run.
      num_images: number of samples for each seed.
    """

    def __init__(self, features: Sequence[str], run: Run, *, num_images: int) -> None:
        self._run, self._num_images = run, num_images
        wanted = {name: (extractor(name), ("pool",)) for name in names(features)}
        cache = run.workdir / "evaluation" / "features"
        self._extraction = Extraction(wanted, mesh=run.mesh, cache=cache, batch_size=NUM)
        real = of_data(run.config)(self._extraction)
        self._known: dict[str, Moments] = {name: found.moments("pool") for name, found in real.items()}
        digits = real["pixels"].features("pool")
        self._digits = digits[np.random.default_rng(0).permutation(len(digits))[:NUM]]

    def __call__(self, *, num_steps: int, **settings: object) -> Row:
        """The distances of what the run draws with these settings of its chain."""
        self._run.configure(**settings)
        distances: dict[str, list[float]] = {name: [] for name in self._known}
        others = []
        for seed in SEEDS:
            drawn = self._extraction.of_samples(self._run, num_images=self._num_images, seed=seed, num_steps=num_steps)
            for name, known in self._known.items():
                distances[name].append(frechet_distance(known, drawn[name].moments("pool")))
            images = drawn["pixels"].features("pool")
            spread = np.trace(moments(images).cov) / np.trace(self._known["pixels"].cov)
            others.append((*precision_recall(self._digits, images[:NUM]), spread))
        return Row(distances, *np.mean(others, axis=0).tolist())


def names(features: Sequence[str]) -> list[str]:
    """The names of the extractors of a table, with pixels."""
    return list(dict.fromkeys([*features, "pixels"]))


def head(features: Sequence[str]) -> str:
    """The first line of a table of rows."""
    cells = [f"FD {Path(name).name}"[:26].ljust(28) for name in names(features)]
    return f"{'':<22}" + "".join(cells) + "precision  recall  variance"


def line(name: str, row: Row) -> str:
    """One line of a table of rows: the distances with every seed, and means over the seeds."""
    cells = ["  ".join(f"{value:.4g}" for value in values).ljust(28) for values in row.distances.values()]
    return f"{name:<22}" + "".join(cells) + f"{row.precision:9.3f}{row.recall:8.3f}{row.variance:10.3f}"


def falls(rows: Sequence[Row], features: str) -> str:
    """Whether the distance falls from row to row, and how far beyond the differences between the seeds."""
    pairs = list(itertools.pairwise([row.distances[features] for row in rows]))
    if all(min(before) > max(after) for before, after in pairs):
        return "holds for every pair of seeds"
    if all(x > y for before, after in pairs for x, y in zip(before, after, strict=True)):
        return "holds with each seed"
    if all(np.mean(before) > np.mean(after) for before, after in pairs):
        return "holds for the means over the seeds, and not with each seed"
    return "does not hold"


def print_steps(features: Sequence[str], run: Run, *, steps: Sequence[int], num_images: int) -> None:
    """Prints the table over steps, and whether more steps have a smaller distance."""
    measure = Distances(features, run, num_images=num_images)
    print(head(features))
    order = " > ".join(f"FD({num_steps})" for num_steps in steps)
    for sampler, settings in SAMPLERS.items():
        rows = []
        for num_steps in steps:
            rows.append(measure(num_steps=num_steps, **settings))
            print(line(f"{sampler}, {num_steps} steps", rows[-1]), flush=True)
        for name in names(features):
            print(f"  {order}, {name}: {falls(rows, name)}", flush=True)


def print_scales(features: Sequence[str], run: Run, *, num_images: int) -> None:
    """Prints the table over guidance scales, and whether the larger scale has the larger distance."""
    measure = Distances(features, run, num_images=num_images)
    rows = []
    for scale in SCALES:
        rows.append(measure(num_steps=SCALE_STEPS, sampler="ddim", labels="all", guidance_scale=scale))
        print(line(f"scale {scale:g}", rows[-1]), flush=True)
    for name in names(features):
        print(f"  FD(scale {SCALES[1]:g}) > FD(scale {SCALES[0]:g}), {name}: {falls(rows[::-1], name)}", flush=True)

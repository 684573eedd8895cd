"""The table and the verdict of `few_steps.py`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

QUALITIES = {"fd": "Frechet distance", "precision": "precision", "recall": "recall", "variance": "variance"}

Rows = Sequence[Mapping[str, Any]]


def of(rows: Rows, method: str, evaluations: int, name: str) -> np.ndarray:
    """A figure of a row for each seed, by its name."""
    return np.array([row[name] for row in rows if (row["method"], row["evaluations"]) == (method, evaluations)])


def imitated(method: str) -> tuple[str, int]:
    """The chain that a method imitates: the ancestral one of all steps, or an accurate solution of the ODE."""
    return ("ancestral", 1000) if method.startswith("ancestral") else ("Heun", 200)


def places(rows: Rows) -> list[tuple[str, int]]:
    """The methods with their numbers of evaluations, in the order of the numbers."""
    found = dict.fromkeys((row["method"], row["evaluations"]) for row in rows)
    return sorted(found, key=lambda place: place[1])


def table(rows: Rows) -> str:
    """The rows as a table in Markdown: means over the seeds, with the smallest and the largest value."""
    lines = [
        f"| evaluations | method | seeds | {' | '.join(QUALITIES.values())} | images/s |",
        f"|{'---|' * (len(QUALITIES) + 4)}",
    ]
    for method, evaluations in places(rows):
        cells = [_spread(of(rows, method, evaluations, name)) for name in QUALITIES]
        rates = of(rows, method, evaluations, "images/s")
        rate, count = _rate(float(np.median(rates))), len(rates)
        lines.append(f"| {evaluations:,} | {method} | {count} | {' | '.join(cells)} | {rate} |")
    return "\n".join(lines)


def _rate(value: float) -> str:
    """Images per second with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values: np.ndarray) -> str:
    """The mean, with the smallest and the largest value where they are several."""
    digits = 2 if values.max() > 1.5 else 3
    mean, low, high = (f"{value:.{digits}f}" for value in (values.mean(), values.min(), values.max()))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def goals(rows: Rows) -> str:
    """Whether the two goals hold, of each method that was measured with so many evaluations."""
    lines = []
    for method, evaluations in places(rows):
        chain = imitated(method)
        if evaluations in (1, 4) and len(of(rows, *chain, "fd")):
            ours = {name: of(rows, method, evaluations, name) for name in QUALITIES}
            theirs = {name: of(rows, *chain, name) for name in QUALITIES}
            verdicts = list(_at_four(ours, theirs) if evaluations == 4 else _at_one(ours, theirs))
            held = "holds" if all(held for _, held in verdicts) else "does not hold"
            said = ", ".join(f"{words}{'' if held else ' (no)'}" for words, held in verdicts)
            lines.append(f"{evaluations} for {chain[1]:,} of {chain[0]}, {method}: {held}: {said}")
    return "\n".join(lines)


def _at_four(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> Iterable[tuple[str, bool]]:
    """Whether the mean is not worse than the worst seed of the chain, by each quality."""
    for name in ("fd", "precision", "recall"):
        sign = -1 if name == "fd" else 1
        worst = sign * (sign * theirs[name]).min()
        said = f"{QUALITIES[name]} {ours[name].mean():.3f} for {theirs[name].mean():.3f}, at worst {worst:.3f}"
        yield said, bool(sign * ours[name].mean() >= sign * worst)


def _at_one(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> Iterable[tuple[str, bool]]:
    """Whether 0.9 of precision and recall are reached, and a variance within a tenth."""
    ratios = {name: ours[name].mean() / theirs[name].mean() for name in ("precision", "recall", "variance")}
    for name, ratio in ratios.items():
        yield f"{name} {ratio:.3f} of the chain's", bool(abs(ratio - 1) <= 0.1 if name == "variance" else ratio >= 0.9)

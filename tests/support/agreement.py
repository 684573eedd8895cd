"""The numbers of `docs/agreement.md`: the tests print them, and compare them with what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "agreement.md"


def documented(row: str) -> float:
    """The number in the second column of the row of that name."""
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {row} |")]
    return float(re.match(r"[\d.,]+(?:e-?\d+)?", line.split(" | ")[1])[0].replace(",", ""))


def equal(row: str, apart: float, *, within: float) -> None:
    """Prints how far two results are apart, and checks that they are equal up to rounding, as the page says."""
    print(f"\nagreement: {row}: {apart:.1e} apart")
    assert apart < within
    assert documented(row) < within


def different(row: str, apart: float, *, factor: float = 1.06) -> None:
    """Prints by how much two conventions differ, and checks that the page says so up to a factor."""
    print(f"\nagreement: {row}: {apart:.2g}")
    assert 1 / factor < documented(row) / apart < factor

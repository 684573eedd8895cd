"""The numbers of `docs/agreement.md`: the tests print them, and compare them with what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "agreement.md"


def documented(row: str) -> float:
    """The number in the second column of the row of that name."""
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {row} |")]
    said = line.split(" | ")[1].removeprefix("at most ")
    return float(re.match(r"[\d.,]+(?:e-?\d+)?", said)[0].replace(",", ""))


def equal(row: str, apart: float) -> None:
    """Prints how far two results are apart, and checks that the page states a bound of that order of magnitude."""
    print(f"\nagreement: {row}: {apart:.1e} apart")
    assert apart <= documented(row) <= 10 * apart


def different(row: str, apart: float) -> None:
    """Prints by how much two conventions differ, and checks that the page says so up to 6 %."""
    print(f"\nagreement: {row}: {apart:.2g}")
    assert 1 / 1.06 < documented(row) / apart < 1.06

"""The inputs of a part of the measurement, and the file in which it keeps each row as soon as it is known."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
"""What was measured, under "what", and its figures by the headings of the table's columns."""


@dataclass
class Job:
    """One part at work.

    Attributes:
      part: its name; its results lie in `out/PART.json`.
      out: folder of all results.
      until: when its time is over, in seconds since 1970.
      machine: the device and JAX's version.
      data: folder of pictures, `train/CLASS/*` and `test/CLASS/*`, or None.
      small: sizes for a machine without an accelerator.
    """

    part: str
    out: Path
    until: float
    machine: str = ""
    data: Path | None = None
    small: bool = False
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.time)

    @property
    def dtypes(self) -> tuple[str, str]:
        """The types of computation; the first is the one for which the machine is made."""
        return ("float32", "bfloat16") if self.small else ("bfloat16", "float32")

    def add(self, what: str, **columns: object) -> None:
        """Adds a row: what was measured, and its figures by the headings of the table's columns."""
        self.rows.append({"what": what, **columns})
        self._write("running")
        figures = ", ".join(f"{name} {shown(value)}" for name, value in columns.items())
        print(f"  {what}: {figures}", flush=True)

    def note(self, text: str) -> None:
        """Adds a sentence that the report shows below the table."""
        self.notes.append(text)
        self._write("running")
        print(f"  {text}", flush=True)

    def done(self) -> None:
        """Records that the part is complete."""
        self._write("done")

    def left(self) -> float:
        """Seconds that are left of the part's time."""
        return self.until - time.time()

    def earlier_rows(self, part: str) -> list[Row]:
        """The rows of a part that ran before on this machine."""
        results = results_of(self.out, part)
        return results["rows"] if results.get("machine") == self.machine else []

    def earlier(self, part: str, what: str, column: str) -> float | None:
        """A figure of a part that ran before on this machine, or None if it is not known."""
        rows = self.earlier_rows(part)
        return next((row[column] for row in rows if row["what"] == what and row.get(column)), None)

    def _write(self, state: str) -> None:
        results = {"machine": self.machine, "state": state, "seconds": round(time.time() - self.begin, 1)}
        write_results(self.out, self.part, {**results, "rows": self.rows, "notes": self.notes})


def results_of(out: Path, part: str) -> dict[str, Any]:
    """What a part has written so far; empty if it has not begun."""
    file = out / f"{part}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def write_results(out: Path, part: str, results: Mapping[str, object]) -> None:
    """Writes the results of a part atomically: the file is complete or unchanged."""
    partial = out / f".{part}.partial"
    partial.write_text(json.dumps({"part": part, **results}, indent=1))
    os.replace(partial, out / f"{part}.json")


def shown(value: object) -> str:
    """A figure as a table shows it: four digits, thousands with commas."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""The results of all parts in one file, as tables, and compared with those of another run."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from _machine.job import results_of, shown
from ddpm_jax.errors import UserError

Results: TypeAlias = dict[str, dict[str, Any]]
"""What each part has written, by its name."""


def write(out: Path, parts: list[str]) -> None:
    """Writes what is known of these parts into results.json and report.md, each atomically."""
    known = {part: results for part in parts if (results := results_of(out, part))}
    text = "\n".join(line for part in known for line in section(part, known[part]))
    for name, content in (("results.json", json.dumps(known, indent=1)), ("report.md", text)):
        (out / f".{name}.partial").write_text(content)
        os.replace(out / f".{name}.partial", out / name)


def read(file: Path) -> Results:
    """The results of a run.

    Raises:
      UserError: the file was not written by this command.
    """
    try:
        results = json.loads(file.read_text())
        if all(isinstance(part["rows"], list) for part in results.values()):
            return results
        raise ValueError("its parts have no rows")
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{file} is not a results.json of this command ({error})") from error


def section(part: str, results: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a part as Markdown."""
    yield f"### {part}\n"
    if "machine" in results:
        yield f"{results['machine']}\n"
    if results["state"] != "done":
        yield f"Incomplete: {results['state']}.\n"
    columns = list(dict.fromkeys(name for row in results["rows"] for name in row))
    if columns:
        yield f"| {' | '.join(columns).replace('what', '', 1)} |"
        yield "|---" * len(columns) + "|"
        for row in results["rows"]:
            yield f"| {' | '.join(shown(row.get(name, '')) for name in columns)} |"
        yield ""
    for note in results["notes"]:
        yield f"- {note}"
    yield ""


def compared(new: Results, old: Results) -> Iterator[str]:
    """Yields the names of the two machines, then the ratio new / old of every figure that both have."""
    for name, results in (("new", new), ("old", old)):
        machines = dict.fromkeys(part["machine"] for part in results.values() if "machine" in part)
        yield f"{name}: {', '.join(machines) or 'an unknown machine'}"
    yield "new over old:"
    for part, results in new.items():
        before = {row["what"]: row for row in old.get(part, {}).get("rows", [])}
        for row in results["rows"]:
            ratios = [
                f"{name} {value / before[row['what']][name]:.3f}"
                for name, value in row.items()
                if isinstance(value, float) and before.get(row["what"], {}).get(name)
            ]
            if ratios:
                yield f"  {part}, {row['what']}: {', '.join(ratios)}"

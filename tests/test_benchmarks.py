"""The benchmarks start: each one's `--help` shows its docstring, and its imports are there."""

import ast

import pytest
from tiny import ROOT, run

BENCHMARKS = sorted(path.name for path in (ROOT / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_starts(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    shown = run(f"benchmarks/{name}", "--help")
    assert shown.status == 0, shown.err
    said = ast.get_docstring(ast.parse((ROOT / "benchmarks" / name).read_text())).splitlines()[0]
    assert said in shown.out

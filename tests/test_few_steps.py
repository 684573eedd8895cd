"""The benchmark of few steps trains what is missing in order, and its verdict is what its figures say."""

import importlib
import json

import pytest
from support.tiny import ROOT, run, save, tiny_config

from ddpm_jax.config import experiment


@pytest.fixture
def module(monkeypatch):
    """A function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def rows(method, evaluations, fd, precision, recall, variance):
    """The rows of three seeds, whose figures differ by a tenth."""
    figures = {"fd": fd, "precision": precision, "recall": recall, "variance": variance, "images/s": 10.0}
    return [
        {"method": method, "evaluations": evaluations, "seed": seed, **{k: v * factor for k, v in figures.items()}}
        for seed, factor in enumerate((0.95, 1.0, 1.05))
    ]


def test_what_is_missing_is_trained_after_its_teachers(module, tmp_path, monkeypatch):
    runs = module("_few_steps_runs")
    trained = {"digits_flow"}
    monkeypatch.setattr(runs, "saved_steps", lambda folder: [2000] if folder.parent.name in trained else [])
    found = list(runs.missing(tmp_path, iter(["progressive_1", "digits_consistency"]), 2))
    assert [folder.name for folder, _ in found] == [
        "digits_classifier",
        "progressive_4",
        "progressive_1",
        "digits_consistency",
    ]
    last = dict(argument.removeprefix("--config.").split("=") for argument in found[2][1][2:])
    assert last["seed"] == "2"
    assert last["teacher.workdir"] == str(tmp_path / "seed_2" / "progressive_4")
    assert (last["distil.first_steps"], "sample.num_steps" in last) == ("1", False)
    steps = [runs.TRAININGS[f"progressive_{count}"].settings["train.num_steps"] for count in (4, 1)]
    assert sum(steps) == experiment("digits_progressive").train.num_steps  # the same stages, as runs of their own


def test_the_verdict_compares_with_the_chain_that_is_imitated(module):
    said = module("_few_steps_table").goals(
        rows("Heun", 200, 2.0, 0.8, 0.9, 0.95)
        + rows("progressive", 4, 2.09, 0.77, 0.87, 0.95)
        + rows("consistency", 4, 2.2, 0.81, 0.9, 0.95)
        + rows("progressive", 1, 4.0, 0.73, 0.82, 0.87)
        + rows("consistency", 1, 4.0, 0.73, 0.8, 0.8)
    )
    held = {line.split(": ")[0]: line.split(": ")[1] for line in said.splitlines()}
    assert held == {
        "4 for 200 of Heun, progressive": "holds",
        "4 for 200 of Heun, consistency": "does not hold",
        "1 for 200 of Heun, progressive": "holds",
        "1 for 200 of Heun, consistency": "does not hold",
    }
    assert "Frechet distance 2.200 for 2.000, at worst 2.100 (no)" in said
    assert "recall 0.889 of the chain's (no), variance 0.842 of the chain's (no)" in said


def test_a_row_has_the_mean_and_the_spread_of_its_seeds(module):
    shown = module("_few_steps_table").table(rows("Heun", 200, 2.0, 0.8, 0.9, 0.95)).splitlines()
    assert shown[2] == (
        "| 200 | Heun | 3 | 2.00 (1.90 to 2.10) | 0.800 (0.760 to 0.840) | 0.900 (0.855 to 0.945) "
        "| 0.950 (0.902 to 0.997) | 10 |"
    )


@pytest.mark.usefixtures("quick_compilation")
def test_a_row_is_measured_once_and_again_after_another_training(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module("_few_steps_runs"), "missing", lambda *arguments: iter([]))
    save(tmp_path / "digits_classifier", tiny_config(task="classify", labels__num_classes=10))
    teacher = save(tmp_path / "seed_0" / "digits_flow", tiny_config(diffusion__target="v"))
    flags = [f"--workdir={tmp_path}", "--methods=DDIM", "--evaluations=1,2", "--seeds=1", "--num_samples=16"]
    printed = [run("benchmarks/few_steps.py", *flags, "--batch_size=16") for _ in range(2)]
    save(teacher, tiny_config(diffusion__target="v"), steps=[2])
    picture = tmp_path / "figure.png"
    printed.append(run("benchmarks/few_steps.py", *flags, "--batch_size=16", f"--out={picture}"))
    assert picture.stat().st_size > 10_000
    assert [outcome.status for outcome in printed] == [0, 0, 0], printed[-1].err
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["method"], row["evaluations"]) for row in rows] == [("DDIM", 1), ("DDIM", 2)] * 2
    assert len({row["runs"] for row in rows}) == 2
    first, again, other = (outcome.out.partition("| evaluations")[2] for outcome in printed)
    assert first == again != other
    assert f"| {rows[2]['precision']:.3f} | {rows[2]['recall']:.3f} |" in other


def test_a_method_that_is_not_there_is_refused_with_those_that_are(module):
    outcome = run("benchmarks/few_steps.py", "--methods=DDIM (fitted),nothing")
    assert outcome.status == 1
    assert outcome.err.startswith("error: --methods=nothing is none of: ancestral, Heun, progressive, ")

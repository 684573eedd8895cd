"""The benchmarks start, and what they mutate and damage is what they say."""

import ast
import importlib
import json
import re

import jax
import numpy as np
import pytest
from support.analytic import keys, pick
from support.tiny import ROOT, run

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.likelihood import bound_terms
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.schedules import linear

BENCHMARKS = sorted(path.name for path in (ROOT / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_starts(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    shown = run(f"benchmarks/{name}", "--help")
    assert shown.status == 0, shown.err
    said = ast.get_docstring(ast.parse((ROOT / "benchmarks" / name).read_text())).splitlines()[0]
    assert said in shown.out


@pytest.mark.slow
def test_the_same_training_started_again_compiles_nothing(monkeypatch):
    """As the benchmark of the first words counts it; the first start compiles dozens of programs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    shown = run("benchmarks/first_words.py", "--imports=1", "--starts=1")
    assert shown.status == 0, shown.err
    compiled = dict(re.findall(r"^(\w+) start, compiled +(\d+) programs$", shown.out, re.MULTILINE))
    assert int(compiled["first"]) > 12
    assert int(compiled["second"]) == 0


def imported(name, monkeypatch):
    """A module of the benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(name)


def test_the_quality_of_digits_is_on_pixels_between_minus_1_and_1(monkeypatch):
    features = imported("_digits_features", monkeypatch)
    first, other = (images.astype(float) for images in features.reference())
    same, brighter = features.quality(first), features.quality(first + 127.5)
    assert same[:2] == (1, 1)
    assert same.frechet == pytest.approx(0, abs=1e-9)
    assert brighter.frechet == pytest.approx(first[0].size, rel=1e-5)  # every pixel is 1 brighter
    assert brighter.precision == 0
    real = features.quality(other)
    assert real.frechet < 1 < brighter.frechet
    assert min(real[:2]) > 0.8


def test_the_loss_with_the_weights_is_the_bound_of_the_variance_beta(monkeypatch):
    """Over all times, with the same noise at each."""
    loss = imported("_fixed_variance", monkeypatch).FixedVarianceBound(6)
    x_0, steps = np.float32(np.tanh(np.random.default_rng(0).normal(size=(3, 2, 2, 1)))), linear(6).transitions()
    denoise, large = Gaussian(np.zeros((2, 2, 1)), np.eye(4)).denoiser, Variance.LARGE
    nats = bound_terms(denoise, x_0, keys(3), indexed=(np.arange(6), steps), variance=large)["nats"]
    losses = []
    for i in range(6):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys(3), i)
        losses.append(loss(denoise, x_0, step_keys, pick(steps, np.full(3, i)))["loss"])
    np.testing.assert_allclose(np.mean(losses, axis=0), np.sum(nats, axis=0) / (4 * np.log(2)), rtol=1e-4)


def test_the_order_over_steps_is_called_by_how_far_it_holds(monkeypatch):
    steps = imported("_digits_steps", monkeypatch)

    def said(*rows):
        return steps.falls([steps.Row({"pixels": row}, 0, 0, 0) for row in rows], "pixels")

    assert said([5, 6], [3, 4], [1, 2]) == "holds for every pair of seeds"
    assert said([5, 9], [4, 6], [3, 5]) == "holds with each seed"
    assert said([5, 9], [6, 4], [1, 2]) == "holds for the means over the seeds, and not with each seed"
    assert said([5, 6], [3, 4], [3, 4]) == "does not hold"


def test_mutations_are_of_all_kinds_and_leave_annotations_alone(monkeypatch):
    source = '''def f(x: int = 3, *, key=True) -> int | None:
    """Says 4."""
    if x < 2 and not key:
        raise ValueError(f"{x + 1}")
    return g(min(x, 5), h(x)[1:]) - x**2
'''
    found = imported("_mutations", monkeypatch).mutations("f.py", source)
    changed = {m.applied(source).splitlines()[m.line - 1].strip() for m in found}
    for line in (
        "def f(x: int = (4), *, key=True) -> int | None:",
        "def f(x: int = 3, *, key=(False)) -> int | None:",
        "if (x <= 2) and not key:",
        "if (x < 2 or not key):",
        "if (not (x < 2 and (not key))):",
        "if x < 2 and (key):",
        "pass",
        "return g((max)(x, 5), h(x)[1:]) - x**2",
        "return g(min(x, (6)), h(x)[1:]) - x**2",
        "return g((x), h(x)[1:]) - x**2",
        "return (g(h(x)[1:], min(x, 5))) - x**2",
        "return g(min(x, 5), (h(x)[:])) - x**2",
        "return (x ** 2 - g(min(x, 5), h(x)[1:]))",
        "return g(min(x, 5), h(x)[1:]) - (x * 2)",
    ):
        assert line in changed, line
    assert all("-> int | None:" in line for line in changed if "def" in line)
    assert not any("Says" in line for line in changed)
    assert all("x + 1" in m.applied(source) for m in found if m.before != 'raise ValueError(f"{x + 1}")')
    assert all(compile(m.applied(source), "f.py", "exec") for m in found)


def test_the_draw_of_mutations_is_that_of_its_seed_and_passes_over_what_changes_nothing(monkeypatch, tmp_path):
    mutations = imported("_mutations", monkeypatch)
    (tmp_path / "f.py").write_text("def f(a, b):\n    return max(a, b) + (a - b) ** 2\n")
    draw = lambda seed, count: mutations.drawn(tmp_path, ["f.py"], count=count, seed=seed)
    whole, total, same = draw(0, 100)
    assert len(whole) == total - same
    assert same == 2  # the arguments of max, and the order in the square
    assert draw(0, 3)[0] == whole[:3]
    assert draw(0, 100)[0] != draw(1, 100)[0]
    assert sorted(draw(1, 100)[0]) == sorted(whole)


def test_every_kind_of_damage_is_that_of_its_seed_and_changes_the_bytes(monkeypatch):
    corrupt, data = imported("_corrupt", monkeypatch), bytes(range(256)) * 40
    for name, kind in corrupt.BYTES.items():
        damaged = [kind(data, np.random.default_rng(seed)) for seed in range(20)]
        assert damaged == [kind(data, np.random.default_rng(seed)) for seed in range(20)], name
        assert sum(one != data for one in damaged) >= 18, name
        assert len(set(damaged)) >= 15, name


def test_json_is_damaged_in_one_value(monkeypatch):
    corrupt, text = imported("_corrupt", monkeypatch), json.dumps({"a": [1, {"b": 2}], "c": "d"})
    damaged = {corrupt.corrupted_json(text, np.random.default_rng(seed)) for seed in range(100)}
    assert len(damaged) > 20
    assert all(json.loads(one) is not None for one in damaged)

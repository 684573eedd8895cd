"""What `benchmarks/accelerator.py` counts: operations, and the time of each kind of them."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from support.tiny import ROOT, run

from ddpm_jax import factory
from ddpm_jax.config import experiment

COMMAND = [sys.executable, ROOT / "benchmarks" / "accelerator.py"]


@pytest.fixture
def module(monkeypatch):
    """Imports a part of the benchmark."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return lambda name: importlib.import_module(f"_machine.{name}")


def test_operations_are_two_for_each_multiply_add(module):
    count = module("arithmetic").operations
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
    convolve = lambda x: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count(convolve, x) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    assert count(jnp.matmul, jnp.zeros((4, 6)), jnp.zeros((6, 7))) == 2 * 4 * 6 * 7
    repeated = lambda x: jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, x), None), x, length=3)
    assert count(repeated, jnp.zeros((5, 5))) == 3 * 2 * 5**3


def test_a_ratio_is_of_calls_in_turn(module, monkeypatch):
    """On clocks that only calls advance; the calls before, which give the length of a window, do not count."""
    wall, processor, calls = [0.0], [0.0], []
    pairs = module("pairs")
    monkeypatch.setattr(pairs.time, "perf_counter", lambda: wall[0])
    monkeypatch.setattr(pairs.time, "process_time", lambda: processor[0])

    def call(name, seconds, *, threads):
        lengths = iter(seconds)

        def taken():
            calls.append(name)
            length = next(lengths)
            wall[0], processor[0] = wall[0] + length, processor[0] + threads * length

        return taken

    ours, theirs = call("ours", [9, 9, 1, 2, 4], threads=1), call("theirs", [9, 9, 1, 1, 1], threads=2)
    pair = pairs.in_turn(ours, theirs, num_pairs=3, window=0.1)
    assert calls == ["ours", "ours", "theirs", "theirs", *["ours", "theirs"] * 3]
    assert pair == (2, 1, (2, 1))


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_their_network_has_the_parameters_of_ours(name, module):
    shapes = jax.eval_shape(
        factory.initial_params(experiment(name), factory.network(experiment(name))), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == module("pytorch").NETWORKS[name].num_parameters


def _event(name, begin, length, *, thread=1, process=7, operation=None):
    args = {"hlo_op": operation} if operation else {}
    return {"ph": "X", "name": name, "ts": begin, "dur": length, "pid": process, "tid": thread, "args": args}


def test_a_device_is_busy_where_anything_runs_and_an_operation_owns_what_is_not_inside_another(module):
    names = [
        {"ph": "M", "name": "process_name", "pid": 7, "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "name": "thread_name", "pid": 7, "tid": 1, "args": {"name": "Stream #1(Compute)"}},
        {"ph": "M", "name": "thread_name", "pid": 7, "tid": 2, "args": {"name": "Steps"}},
    ]
    events = [
        _event("while", 0, 10, operation="while.1"),
        _event("a", 2, 3, operation="a.1"),
        _event("b", 14, 6, operation="b.1"),
        _event("0", 0, 100, thread=2),
        _event("host", 0, 100, process=1, operation="host"),
    ]
    busy, own, span = module("profile").device_times(names + events)
    assert (busy, span) == (16, 20)
    assert own == {"while.1": 7, "a.1": 3, "b.1": 6}


def test_operations_are_sorted_by_the_names_that_the_program_gives_them(module):
    profile = module("profile")
    program = """
%fused_computation.1 (p: f32[2]) -> f32[2] {
  %conv.7 = f32[2] convolution(%p), metadata={op_name="jit(f)/gradient/jvp(UNet)/encoder/conv_in/conv_general_dilated"}
  ROOT %add.3 = f32[2] add(%conv.7, %p), metadata={op_name="jit(train_step)/gradient/jvp(UNet)/encoder/add"}
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %fusion.1 = f32[2] fusion(%p), kind=kLoop, calls=%fused_computation.1
  ROOT %wrapped_mul.2 = f32[2] multiply(%fusion.1, %p), metadata={op_name="jit(train_step)/optimizer/mul"}
}
"""
    names = profile.operation_names(program)
    assert profile.kind_of("fusion_1", names["fusion_1"]) == "convolutions"
    assert profile.kind_of("wrapped_mul.2", names["wrapped_mul.2"]) == "optimiser and averages"
    assert profile.kind_of("void cudnn::nchwToNhwcKernel", "") == "copies and transposes"
    assert profile.kind_of("input_transpose_fusion_3", "jit(f)/ema/add") == "copies and transposes"
    assert profile.kind_of("loop_add", "jit(f)/gradient/jvp(UNet)/middle/block_0/norm_1/mul") == "norms"
    assert profile.kind_of("loop_add", "jit(f)/gradient/jvp(UNet)/middle/block_0/add") == "everything else"


def test_a_row_is_on_the_disk_as_soon_as_it_is_known(module, tmp_path, capsys):
    job = module("job").Job("rates", tmp_path, time.time() + 10, machine="here")
    job.add("product", ms=1.5)
    kept = json.loads((tmp_path / "rates.json").read_text())
    assert (kept["state"], kept["rows"]) == ("running", [{"what": "product", "ms": 1.5}])
    assert job.earlier("rates", "product", "ms") == 1.5
    assert job.earlier("rates", "copy", "ms") is None
    assert module("job").Job("training", tmp_path, 0.0, machine="elsewhere").earlier("rates", "product", "ms") is None
    job.done()
    assert json.loads((tmp_path / "rates.json").read_text())["state"] == "done"


@pytest.mark.slow
def test_a_part_that_is_done_is_a_table_and_compares_with_itself(tmp_path):
    (tmp_path / "sampling.json").write_text(json.dumps({"part": "sampling", "state": "done", "rows": [], "notes": []}))
    arguments = [f"--out={tmp_path}", "--parts=rates", "--minutes=0.5"]
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, env=dict(os.environ))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rates"]["state"] == "done"
    assert results["rates"]["rows"][0]["what"] == "product, bfloat16"
    assert list(results) == ["rates", "sampling"]  # what lay there already stays beside it
    assert "| product, bfloat16 | 2,048 |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_a_command_that_is_terminated_ends_its_part_and_keeps_what_was_measured(tmp_path):
    process = subprocess.Popen([*COMMAND, f"--out={tmp_path}", "--parts=rates", "--minutes=5"], stdout=subprocess.PIPE)
    file = tmp_path / "rates.json"
    while not (file.exists() and json.loads(file.read_text())["rows"]):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode != 0
    results = json.loads((tmp_path / "results.json").read_text())["rates"]
    assert results["state"] == "ended, because the program was ended"
    assert results["rows"]


def test_a_new_result_is_compared_row_by_row(module):
    report = module("report")
    old = {"rates": {"machine": "A", "rows": [{"what": "copy", "ms": 2.0}, {"what": "product", "ms": 1.0}]}}
    new = {"rates": {"machine": "B", "rows": [{"what": "copy", "ms": 3.0}]}}
    assert list(report.compared(new, old)) == ["new: B", "old: A", "new over old:", "  rates, copy: ms 1.500"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts=pictures"], "give its folder with --data=FOLDER"),
        (["--parts=nothing"], "'nothing' is not the name of a part; choose from rates, training,"),
        (["--data=."], ". does not contain the folder 'train'"),
        (["--against=README.md"], "README.md is not a results.json of this command"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    shown = run("benchmarks/accelerator.py", f"--out={tmp_path}", *arguments)
    assert shown.status == 1
    assert said in shown.err
    assert list(tmp_path.iterdir()) == []

"""The real loop: resumed, killed, interrupted, on one device and on eight, it is the same run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import arguments, same, tiny_config

from ddpm_jax import build, logging, training
from ddpm_jax.checkpoint import saved_steps
from ddpm_jax.errors import UserError
from ddpm_jax.parallel import device_mesh, global_batch, replicated
from ddpm_jax.state import initial_state
from ddpm_jax.step import train_step

ROOT = Path(__file__).parents[1]
BUSY = {"model__dropout": 0.1, "data__random_flip": True, "train__accumulation": 2, "train__batch_size": 16}


def deterministic(line):
    """A line of the log without its speeds."""
    return {key: value for key, value in line.items() if not key.endswith("per_s")}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of eight steps with dropout, flips and accumulation: its directory and final state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, training.train(tiny_config(**BUSY), workdir)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(whole_run, tmp_path, capsys):
    workdir, state = whole_run
    training.train(tiny_config(**BUSY, train__num_steps=5), tmp_path)
    resumed = training.train(tiny_config(**BUSY), tmp_path)
    assert same(resumed, state)
    assert "resuming from step 5" in capsys.readouterr().out
    lines, expected = logging.read(tmp_path), logging.read(workdir)
    assert [deterministic(line) for line in lines] == [deterministic(line) for line in expected]
    assert [line["step"] for line in lines] == list(range(1, 9))


def test_importance_sampled_times_are_resumed_too(tmp_path):
    config = {"loss__times": "importance", "diffusion__num_timesteps": 4, "train__num_steps": 8}
    state = training.train(tiny_config(**config), tmp_path / "a")
    training.train(tiny_config(**{**config, "train__num_steps": 3}), tmp_path / "b")
    assert same(training.train(tiny_config(**config), tmp_path / "b"), state)


def test_a_finished_run_is_not_trained_again(whole_run):
    workdir, state = whole_run
    before = (workdir / "log.jsonl").read_text()
    again = training.train(tiny_config(**BUSY), workdir)
    assert same(again, state)
    assert (workdir / "log.jsonl").read_text() == before


def start(workdir, config):
    """The training program as a process of its own, with the tests' devices."""
    command = [sys.executable, "train.py", f"--workdir={workdir}", *arguments(config)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(workdir).parent / "compiled")}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_step(process, workdir, step):
    """Waits until the log has the step."""
    deadline = time.monotonic() + 240
    while not any(line["step"] >= step for line in read_whole_lines(workdir)):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_whole_lines(workdir):
    """The log of a run that is being written."""
    path = Path(workdir) / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(whole_run, tmp_path):
    workdir, state = whole_run
    config = tiny_config(**BUSY)
    process = start(tmp_path / "run", config)
    wait_for_step(process, tmp_path / "run", 5)
    process.kill()
    process.wait()
    process.stdout.close()
    assert same(training.train(config, tmp_path / "run"), state)
    expected = [deterministic(line) for line in logging.read(workdir)]
    assert [deterministic(line) for line in logging.read(tmp_path / "run")] == expected


@pytest.mark.slow
def test_a_terminated_process_saves_and_exits_cleanly(tmp_path):
    config = tiny_config(train__num_steps=100_000, checkpoint__every=100_000)
    process = start(tmp_path / "run", config)
    wait_for_step(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    (step,) = saved_steps(tmp_path / "run" / "checkpoints")
    assert f"step {step} is saved" in output
    assert "Traceback" not in output


def one_step(config, devices):
    """State and metrics after the first step on the given devices."""
    mesh, model = device_mesh(devices), build.network(config)
    recipe = build.recipe(config, model)
    params = build.initial_params(config, model)
    key = jax.random.key(config.seed)
    state = initial_state(key, params, optimizer=recipe.optimizer, times=recipe.times)
    state = jax.device_put(state, replicated(mesh))
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 8, 8, 1), np.uint8), "label": np.zeros(16, np.int32)}
    return training.compiled_step(recipe, mesh)(state, global_batch(mesh, batch))


def test_devices_and_accumulation_change_nothing_but_rounding():
    config = {"data__random_flip": True, "train__batch_size": 16, "loss__times": "antithetic"}
    state, metrics = one_step(tiny_config(**config), jax.devices()[:1])
    for accumulation, count in ((1, 8), (2, 1), (4, 2)):
        other, other_metrics = one_step(tiny_config(**config, train__accumulation=accumulation), jax.devices()[:count])
        for name in metrics:
            np.testing.assert_allclose(other_metrics[name], metrics[name], rtol=2e-5, err_msg=name)
        # Adam's first step is the gradient's sign times the rate: parameters are compared on that scale.
        difference = jax.tree.map(
            lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))), other.params, state.params
        )
        assert max(jax.tree.leaves(difference)) < 1e-6


def test_a_run_traces_its_step_once(tmp_path, monkeypatch):
    traces = []

    def counted(*args):
        traces.append(1)
        return train_step(*args)

    monkeypatch.setattr(training, "train_step", counted)
    training.train(tiny_config(train__num_steps=4), tmp_path)
    assert len(traces) == 1


def test_a_loss_that_is_not_finite_stops_with_the_step_and_saves_nothing_of_it(tmp_path):
    config = tiny_config(optim__learning_rate=1e30, optim__grad_clip=0.0, optim__warmup_steps=0, checkpoint__every=1)
    with pytest.raises(UserError, match=r"at step \d+; lower --config.optim.learning_rate"):
        training.train(config, tmp_path)
    logged = [line["step"] for line in logging.read(tmp_path)]
    assert all(np.isfinite(line["loss"]) for line in logging.read(tmp_path))
    assert max(saved_steps(tmp_path / "checkpoints"), default=0) <= max(logged, default=0)


def test_another_model_in_the_directory_is_refused_with_the_keys(whole_run):
    with pytest.raises(UserError, match=r"model.channels is 8 there and 16 here"):
        training.train(tiny_config(**BUSY, model__channels=16), whole_run[0])


def test_harmless_changes_are_announced(whole_run, capsys):
    training.train(tiny_config(**BUSY, optim__learning_rate=3e-4), whole_run[0])
    assert "optim.learning_rate was 0.001 in this run so far and is 0.0003" in capsys.readouterr().out


def test_the_log_and_the_previews_are_written(tmp_path):
    training.train(tiny_config(train__num_steps=4, log__every=2, log__preview_every=4), tmp_path)
    lines = logging.read(tmp_path)
    assert [line["step"] for line in lines] == [2, 4]
    names = {"loss", "grad_norm", "learning_rate", "steps_per_s", "images_per_s"}
    assert names | {"loss_t1", "loss_t4"} <= set(lines[0])
    assert lines[0]["learning_rate"] == pytest.approx(1e-5, rel=1e-5)
    pictures = {path.name for path in (tmp_path / "previews").iterdir()}
    assert pictures == {"raw_0000004.png", "ema_0000004.png"}
    assert any(path.stat().st_size > 1000 for path in (tmp_path / "tensorboard").iterdir())

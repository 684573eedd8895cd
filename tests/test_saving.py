"""What an error would lose is saved before it ends a run, and a run is saved by the clock too."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import same, tiny_config

from ddpm_jax import build, feed, saving, training
from ddpm_jax.checkpoint import Checkpoints
from ddpm_jax.data import Digits
from ddpm_jax.errors import UserError
from ddpm_jax.logging import RunLog
from ddpm_jax.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

READS = {"checkpoint__every": 100, "checkpoint__every_minutes": 0.0, "data__on_device": False}


class Failing:
    """The digits, of which one cannot be read."""

    num_classes, class_names = 10, tuple("0123456789")

    def __init__(self, wrong):
        self._digits, self._wrong = Digits("train"), wrong

    def __len__(self):
        return len(self._digits)

    def __getitem__(self, index):
        if index == self._wrong:
            raise UserError("this image cannot be read")
        return self._digits[index]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, quick_compilation):
    """The work directory and final state of an uninterrupted run of 8 steps."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, training.train(tiny_config(**READS), workdir)


def deterministic(workdir):
    """The log without speeds."""
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_per_s")} for line in lines]


def fails(workdir, message, monkeypatch, *replaced, **changes):
    """Trains with something replaced meanwhile, which ends the run with that message."""
    monkeypatch.setattr(*replaced)
    with pytest.raises(UserError, match=message):
        training.train(tiny_config(**READS, **changes), workdir)
    monkeypatch.undo()


def unreadable_at(step):
    """In place of `build.source`: one image of the batch after that step cannot be read."""
    wrong = int(training.batch_indices(1297, batch_size=8, seed=0, step=step)[3])
    return build, "source", lambda config: Failing(wrong)


def test_an_image_that_cannot_be_read_loses_no_step(whole_run, tmp_path, monkeypatch, capsys):
    fails(tmp_path, "this image cannot be read", monkeypatch, *unreadable_at(5))
    assert saved_steps(tmp_path / "checkpoints") == [5]
    assert "step 5 is saved; the same command resumes from there" in capsys.readouterr().err
    assert same(training.train(tiny_config(**READS), tmp_path), whole_run[1])
    assert deterministic(tmp_path) == deterministic(whole_run[0])


def full(*args, **kwargs):
    raise UserError("the disk is full")


def test_a_log_that_cannot_be_written_loses_no_step(whole_run, tmp_path, monkeypatch):
    original = RunLog._write
    write = lambda log, line: full() if line["step"] == 4 else original(log, line)
    fails(tmp_path, "the disk is full", monkeypatch, RunLog, "_write", write)
    assert saved_steps(tmp_path / "checkpoints") == [4]
    assert same(training.train(tiny_config(**READS), tmp_path), whole_run[1])


def test_a_preview_that_cannot_be_written_loses_no_step(tmp_path, monkeypatch):
    fails(tmp_path, "the disk is full", monkeypatch, training.Previews, "__call__", full, log__preview_every=4)
    assert saved_steps(tmp_path / "checkpoints") == [4]


def test_what_is_not_finite_is_not_saved_on_an_error(tmp_path, monkeypatch):
    changes = {"optim__learning_rate": 1e30, "optim__warmup_steps": 0, "log__every": 100}
    fails(tmp_path, "this image cannot be read", monkeypatch, *unreadable_at(5), **changes)
    assert saved_steps(tmp_path / "checkpoints") == []


def test_a_step_that_cannot_be_saved_is_a_warning_beside_the_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(*unreadable_at(2))
    fails(tmp_path, "this image cannot be read", monkeypatch, Checkpoints, "save", full)
    assert "warning: step 2 could not be saved: the disk is full" in capsys.readouterr().err


def leave(error, *, deleted=False):
    """Ends with an error what a `Saves` surrounds, which has nowhere to save to."""
    with saving.Saves(None, None, tiny_config(), start_step=0) as saves:
        saves.latest = SimpleNamespace(step=jnp.int32(3)) if not deleted else [jnp.int32(3)]
        if deleted:
            saves.latest[0].delete()
        raise error


def test_a_second_signal_and_a_step_that_consumed_its_state_save_nothing():
    with pytest.raises(KeyboardInterrupt):
        leave(KeyboardInterrupt())
    with pytest.raises(ValueError, match="in the step"):
        leave(ValueError("in the step"), deleted=True)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(("minutes", "saved"), [(0.0, [8]), (3.0, [8, 6, 3]), (0.5, list(range(8, 0, -1)))])
def test_a_run_is_saved_by_the_clock(tmp_path, monkeypatch, minutes, saved):
    """Every step takes a minute."""
    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    original = RunLog.add

    def add(log, *args):
        clock.now += 60
        original(log, *args)

    monkeypatch.setattr(RunLog, "add", add)
    config = {**READS, "checkpoint__every_minutes": minutes, "checkpoint__keep": 10, "log__every": 100}
    training.train(tiny_config(**config), tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == saved
    assert [line["step"] for line in deterministic(tmp_path)] == sorted({*saved, 8})


def test_a_dead_data_worker_is_one_line():
    def batches():
        yield {"image": np.zeros(1)}
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search the logs above.")

    stream = feed._whole_workers(batches())
    next(stream)
    with pytest.raises(UserError, match=r"^a process that reads images ended .*exit code -9\).*num_workers.*again$"):
        next(stream)

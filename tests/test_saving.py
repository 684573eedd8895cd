"""What an error would lose is saved before it ends a run, and a run is saved by the clock too."""

import contextlib
import re
import resource
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.tiny import random_state, same, save, tiny_config, untimed

from ddpm_jax import factory
from ddpm_jax.config import to_json
from ddpm_jax.data import Digits
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.errors import AgreedError, TransientError, UserError
from ddpm_jax.jobs import train
from ddpm_jax.training import inputs, loop, saving
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.log import DivergedError, RunLog
from ddpm_jax.training.log_lines import LogFile
from ddpm_jax.training.restoring import saved_steps

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
    return workdir, train.train(tiny_config(**READS), workdir)


def fails(workdir, message, monkeypatch, *replaced, **changes):
    """Trains with something replaced meanwhile, which ends the run with that message."""
    monkeypatch.setattr(*replaced)
    with pytest.raises(UserError, match=message):
        train.train(tiny_config(**READS, **changes), workdir)
    monkeypatch.undo()


def unreadable_at(step):
    """In place of `factory.parts`: one image of the batch after that step cannot be read."""
    wrong = int(batch_indices(1297, batch_size=8, seed=0, step=step)[3])
    return factory, "parts", lambda config, given: factory.Parts(Failing(wrong), None)


def test_an_image_that_cannot_be_read_loses_no_step(whole_run, tmp_path, monkeypatch, capsys):
    fails(tmp_path, "this image cannot be read", monkeypatch, *unreadable_at(5))
    assert saved_steps(tmp_path / "checkpoints") == [5]
    assert "step 5 is saved; the same command resumes from there" in capsys.readouterr().err
    assert same(train.train(tiny_config(**READS), tmp_path), whole_run[1])
    assert untimed(tmp_path) == untimed(whole_run[0])


def full(*args, **kwargs):
    raise UserError("the disk is full")


def test_a_log_that_cannot_be_written_loses_no_step(whole_run, tmp_path, monkeypatch):
    original = LogFile.line
    line = lambda file, line: full() if line["step"] == 4 else original(file, line)
    fails(tmp_path, "the disk is full", monkeypatch, LogFile, "line", line)
    assert saved_steps(tmp_path / "checkpoints") == [4]
    assert same(train.train(tiny_config(**READS), tmp_path), whole_run[1])


def test_a_preview_that_cannot_be_written_loses_no_step(tmp_path, monkeypatch):
    fails(tmp_path, "the disk is full", monkeypatch, RunLog, "picture", full, log__preview_every=4)
    assert saved_steps(tmp_path / "checkpoints") == [4]


def test_what_is_not_finite_is_not_saved_on_an_error(tmp_path, monkeypatch):
    changes = {"optim__learning_rate": 1e30, "optim__warmup_steps": 0, "log__every": 100}
    fails(tmp_path, "this image cannot be read", monkeypatch, *unreadable_at(5), **changes)
    assert saved_steps(tmp_path / "checkpoints") == []


def test_a_step_that_cannot_be_saved_is_a_warning_beside_the_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(*unreadable_at(2))
    fails(tmp_path, "this image cannot be read", monkeypatch, Checkpoints, "save", full)
    assert "warning: step 2 could not be saved: the disk is full" in capsys.readouterr().err


def leave(error, *, consumed=False, last=2):
    """Ends with an error what a `Saves` surrounds; returns the steps that it saves, of which `last` is on disk."""
    saved = []
    save = lambda state, config: saved.append(int(state.step))
    listed = last if callable(last) else lambda: last
    checkpoints = SimpleNamespace(last_saved=listed, save=save, wait=lambda: None)
    log = SimpleNamespace(flush=lambda: None, store=lambda: None, say=lambda text: print(text, file=sys.stderr))
    saves = saving.Saves(checkpoints, log, to_json(tiny_config()), every=saving.Intervals(2))
    saves.latest = random_state(tiny_config(), step=3)
    if consumed:
        saves.latest.step.delete()
    with pytest.raises(type(error)), saves:
        raise error
    return saved


SAVED, NOT_SAVED = "step 3 is saved; the same command resumes from there\n", "note: no step after step 2 is saved\n"
NONE_FOUND = "note: no checkpoint of the run was found\n"
NOT_KNOWN = "note: which checkpoints there are is not known (cannot list them)\n"


def unlisted():
    raise UserError("cannot list them")


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (ValueError("beside the step"), {}, SAVED),
        (ValueError("beside the step"), {"last": 3}, ""),
        (ValueError("beside the step"), {"last": None}, SAVED),
        (ValueError("in the step"), {"consumed": True}, NOT_SAVED),
        (ValueError("in the first step"), {"consumed": True, "last": None}, NONE_FOUND),
        (ValueError("in the step"), {"consumed": True, "last": unlisted}, NOT_KNOWN),
        (KeyboardInterrupt(), {}, NOT_SAVED),
        (KeyboardInterrupt(), {"last": 3}, ""),
        (DivergedError("loss became nan", 3), {}, ""),
    ],
)
def test_an_error_saves_the_step_or_says_since_when_nothing_is_saved(error, state, told, capsys):
    assert leave(error, **state) == ([3] if told == SAVED else [])
    assert capsys.readouterr().err == told


def test_a_wait_for_the_last_checkpoint_says_what_ended_the_run(capsys, monkeypatch):
    monkeypatch.setattr(saving, "waiting", lambda what: contextlib.nullcontext(print(what)))
    leave(OSError("the bucket does not answer"))
    assert "the run ends (the bucket does not answer) and waits for the checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "index", "told"),
    [
        (AgreedError("the disk is full"), 0, SAVED),
        (AgreedError("the first process failed"), 1, SAVED),
        (UserError("an image cannot be read"), 0, NOT_SAVED),
        (UserError("an image cannot be read"), 1, NOT_SAVED),
    ],
)
def test_of_several_processes_an_error_that_all_hear_of_saves_the_step(error, index, told, monkeypatch, capsys):
    """Any other finds the peers within the next step."""
    monkeypatch.setattr(saving, "jax", SimpleNamespace(process_count=lambda: 2, tree=jax.tree))
    monkeypatch.setattr(saving, "is_first", lambda: index == 0)
    assert leave(error) == ([3] if told == SAVED else [])
    assert capsys.readouterr().err == told


@contextlib.contextmanager
def no_room():
    """A limit on the size of files stands in for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("step", "told"), [(3, "note: no step after step 2 is saved"), (4, SAVED.replace("3", "4"))])
def test_what_an_error_says_is_saved_is_on_disk(tmp_path, step, told, capsys):
    """Where the save in the background has failed meanwhile; a later step is saved if there is room again."""
    config, log = (
        tiny_config(),
        SimpleNamespace(flush=lambda: None, store=lambda: None, say=lambda text: print(text, file=sys.stderr)),
    )
    checkpoints = Checkpoints(save(tmp_path, config, steps=(2,)))
    saves = saving.Saves(checkpoints, log, to_json(config), every=saving.Intervals(2))
    saves.latest = random_state(config, step=3)
    saving._norm((saves.latest.params, saves.latest.ema_params))  # whose program is compiled, and kept, before
    with no_room():
        saves.save()
        while checkpoints._manager.is_saving_in_progress():
            time.sleep(0.01)
    saves.latest = random_state(config, step=step)
    with pytest.raises(ValueError, match="a later error"), checkpoints, saves:
        raise ValueError("a later error")
    failed, said = capsys.readouterr().err.splitlines()
    reason = "File too large; the last good checkpoint is step 2; free some space, and start again"
    assert re.search(f"^warning: cannot save .*{reason}$", failed)
    assert said == told.strip()
    assert saved_steps(tmp_path / "checkpoints") == [4, 2][step == 3 :]


def test_an_interruption_says_that_a_step_is_saved_once_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.Interruption, "__call__", lambda self, step: step == 2)
    fails(tmp_path, "the disk is full", monkeypatch, Checkpoints, "wait", full)
    assert "interrupted" not in capsys.readouterr().err


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(
    ("minutes", "saved"),
    [
        pytest.param(0.0, [8], marks=pytest.mark.slow),
        (3.0, [8, 6, 3]),
        pytest.param(0.5, list(range(8, 0, -1)), marks=pytest.mark.slow),
    ],
)
def test_a_run_is_saved_by_the_clock(tmp_path, monkeypatch, minutes, saved):
    """Every step takes a minute. None of these saves is regular, so the newest two remain."""
    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    original = RunLog.add

    def add(log, *args):
        clock.now += 60
        original(log, *args)

    monkeypatch.setattr(RunLog, "add", add)
    config = {**READS, "checkpoint__every_minutes": minutes, "checkpoint__keep": 10, "log__every": 100}
    train.train(tiny_config(**config), tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == saved[:2]
    assert [line["step"] for line in untimed(tmp_path)] == sorted({*saved, 8})


def test_a_dead_data_worker_is_one_line():
    def batches():
        yield {"image": np.zeros(1)}
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search the logs above.")

    stream = inputs._whole_workers(batches())
    next(stream)
    with pytest.raises(
        TransientError, match=r"^a process that reads images ended .*exit code -9\).*num_workers.*again$"
    ):
        next(stream)


def test_a_step_ends_before_processes_agree_on_the_time_of_a_save(monkeypatch):
    """A broadcast beside a step that communicates can leave all of them waiting for ever."""
    order = []
    monkeypatch.setattr(saving.jax, "process_count", lambda: 2)
    monkeypatch.setattr(saving.jax, "block_until_ready", order.append)
    monkeypatch.setattr(saving, "agreed", lambda value: order.append("agreed") or value)
    saves = saving.Saves(None, None, {}, every=saving.Intervals(50, 10.0))
    saves.latest = "the state"
    assert not saves.due(1)
    assert order == ["the state", "agreed"]

"""The status command: many runs in one table, and what a person should know of them."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import ROOT, run

from ddpm_jax.errors import UserError
from ddpm_jax.jobs.status import reading
from ddpm_jax.jobs.status.reading import observe
from ddpm_jax.jobs.status.spans import span
from ddpm_jax.jobs.status.table import table
from ddpm_jax.training.heartbeat import Status, read_status

NOVEMBER = ROOT / "tests" / "earlier_runs" / "november_2026"
OPERATING = (ROOT / "docs" / "operating.md").read_text()
NOW = 2e9
PROGRAM = "ddpm_jax/jobs/status/__main__.py"
TRAINING = {
    "state": "training",
    "step": 12_000,
    "num_steps": 800_000,
    "steps_per_s": 3.1416,
    "images_per_s": 402.1,
    "mfu": 0.4127,
    "seconds_left": 250_000.0,
    "seconds_per_line": 30.0,
    "checkpoint_step": 10_000,
    "checkpoint_time": NOW - 600,
    "held_out_loss": 0.03125,
    "host": "elsewhere",
    "pid": 17,
    "time": NOW - 8,
}


def make(workdir, **changes):
    workdir.mkdir(parents=True)
    (workdir / "status.json").write_text(json.dumps({**TRAINING, **changes}))
    return workdir


def notes(workdir):
    return list(observe(workdir, now=NOW).notes)


def test_the_table_has_a_line_for_each_run_and_what_one_should_know_below(tmp_path, monkeypatch):
    """As the documentation shows it."""
    monkeypatch.chdir(tmp_path)
    make(Path("runs/celeba"))
    error = "cannot write the log in runs/cifar10: No space left on device; free some space"
    ended = {"time": NOW - 4000, "checkpoint_time": NOW - 4001, "last_error_time": NOW - 4000, "last_error": error}
    speed = {"steps_per_s": 8.77, "images_per_s": 1122.6, "mfu": None, "seconds_left": None, "held_out_loss": None}
    make(Path("runs/cifar10"), state="needs you", step=5100, checkpoint_step=5100, **ended, **speed)
    Path("runs/mnist").mkdir()
    runs = [observe(Path("runs", name), now=NOW) for name in ("celeba", "cifar10", "mnist")]
    shown = "run " + OPERATING.partition("```\nrun ")[2].partition("\n```")[0]
    assert table(runs, now=NOW) == shown.split("\n")


@pytest.mark.parametrize(
    ("seconds", "per_line", "note"),
    [
        (119, 1.0, []),
        (720, 1.0, ["training, but nothing heard for 12 min"]),
        (720, 300.0, []),
        (7200, 300.0, ["training, but nothing heard for 2.0 h"]),
    ],
)
def test_silence_is_said_where_it_is_longer_than_usual(tmp_path, seconds, per_line, note):
    assert notes(make(tmp_path / "run", time=NOW - seconds, seconds_per_line=per_line)) == note
    assert notes(make(tmp_path / "finished", state="finished", time=NOW - seconds)) == []


def test_a_process_of_this_machine_that_is_gone_is_said_at_once(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = {"host": socket.gethostname()}
    gone = [f"training, but its process {ended.pid} has ended without a word: start it again"]
    assert notes(make(tmp_path / "gone", **here, pid=ended.pid)) == gone
    assert notes(make(tmp_path / "stopped", **here, pid=ended.pid, state="stopped")) == []
    assert notes(make(tmp_path / "lives", **here, pid=os.getpid())) == []
    assert notes(make(tmp_path / "elsewhere", pid=ended.pid)) == []


@pytest.fixture
def november(tmp_path):
    """A run of a version that wrote no status."""
    return shutil.copytree(NOVEMBER, tmp_path / "run")


def test_a_run_of_an_earlier_version_is_read_from_its_log_and_checkpoints(november):
    changed = 1.7e9
    for path in (november / "log.jsonl", november / "checkpoints" / "8"):
        os.utime(path, (changed, changed))
    last = json.loads((november / "log.jsonl").read_text().splitlines()[-1])
    status = observe(november, now=NOW).status
    assert status == Status(
        "finished",
        step=8,
        num_steps=8,
        steps_per_s=last["steps_per_s"],
        images_per_s=last["images_per_s"],
        seconds_left=0.0,
        seconds_per_line=status.seconds_per_line,
        checkpoint_step=8,
        checkpoint_time=changed,
        held_out_loss=last.get("held_out_loss"),
        time=changed,
    )


def test_such_a_run_trains_as_long_as_it_is_heard_of(november, monkeypatch):
    from ddpm_jax.training import restoring

    monkeypatch.setattr(restoring, "stored_config", lambda workdir: {"train": {"num_steps": 80}})
    heard = (november / "log.jsonl").stat().st_mtime
    states = [observe(november, now=heard + seconds).status.state for seconds in (5, 5000)]
    assert states == ["training", "stopped"]


def test_what_is_no_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a directory: give the work directories of runs"):
        observe(tmp_path / "absent", now=NOW)


def test_the_program_prints_a_table_or_json_and_uses_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.commands.cli.all_devices", lambda: pytest.fail("a device was used"))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")  # beside a training job
    one, other = make(tmp_path / "one"), make(tmp_path / "other", step=5)
    shown = run(PROGRAM, one, other)
    assert (shown.status, shown.err, shown.out.count("\n")) == (0, "", 3)
    printed = run(PROGRAM, "--json", one, other)
    found = json.loads(printed.out)
    assert [(entry["workdir"], entry["step"]) for entry in found] == [(str(one), 12_000), (str(other), 5)]
    assert found[0].items() >= TRAINING.items()
    assert (found[0]["silent_seconds"], found[0]["notes"]) == (0, [])  # it is from a time to come
    assert run(PROGRAM).err == "error: the work directory of a run is missing; see --help\n"
    assert run(PROGRAM, "--jsn", one).status == 1


def test_status_needs_no_library_of_training():
    loaded = "print(*{'orbax', 'tensorboardX', 'optax'} & {*sys.modules})"
    program = f"import sys\nfrom ddpm_jax.jobs.status import reading, table\n{loaded}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5900, "98 min"),
        (6000, "1.7 h"),
        (100_000, "27.8 h"),
        (180_000, "2.1 days"),
    ],
)
def test_spans_have_one_unit(seconds, text):
    assert span(seconds) == text


def test_patience_follows_the_log():
    assert [reading._patience(Status("training", seconds_per_line=each)) for each in (None, 1.0, 100.0)] == [
        120,
        120,
        300,
    ]


def test_an_address_that_cannot_be_read_hides_no_other_run(tmp_path):
    make(tmp_path / "run")
    (tmp_path / "file").write_text("")
    wrong = [f"{tmp_path}/file", "s3://bucket/run"]
    shown = run(PROGRAM, *wrong, tmp_path / "run")
    error = f"{tmp_path}/file is not a directory: give the work directories of runs"
    lines = shown.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1::2]] == [wrong[0], wrong[1], f"{tmp_path}/run"]
    assert [" not readable " in line for line in lines[1:]] == [True, False, True, False, False]
    assert lines[2] == f"  not readable: {error}"
    assert lines[4].startswith("  not readable: cannot use s3://bucket/run: only gs:// buckets are used directly")
    assert (shown.status, shown.err) == (1, f"error: {error}\n")
    printed = run(PROGRAM, "--json", *wrong, tmp_path / "run")
    assert printed.status == 1
    assert [entry["state"] for entry in json.loads(printed.out)] == ["not readable", "not readable", "training"]
    alone = run(PROGRAM, wrong[0])
    assert (alone.status, alone.out, alone.err) == (1, "", f"error: {error}\n")


@pytest.mark.parametrize(("others", "status"), [([], 75), (["s3://bucket/run"], 1)])
def test_a_bucket_that_does_not_answer_is_no_run_without_a_status(tmp_path, monkeypatch, others, status):
    def read(workdir):
        if workdir.name == "silent":
            raise TimeoutError("no answer")
        return read_status(workdir)

    monkeypatch.setattr(reading, "read_status", read)
    (tmp_path / "silent").mkdir()
    (tmp_path / "new").mkdir()
    shown = run(PROGRAM, "--json", tmp_path / "silent", make(tmp_path / "run"), tmp_path / "new", *others)
    assert [entry["state"] for entry in json.loads(shown.out)][:3] == ["not readable", "training", "no run"]
    assert (shown.status, shown.err.count("\n")) == (status, 1)


def test_a_run_that_compiles_its_step_is_not_silent(tmp_path):
    assert notes(make(tmp_path / "a", state="waiting", time=NOW - 1700, seconds_per_line=None)) == []
    (note,) = notes(make(tmp_path / "b", state="waiting", time=NOW - 1900, seconds_per_line=None))
    assert note == "waiting, but nothing heard for 32 min"

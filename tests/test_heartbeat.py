"""A run writes what it is doing at its start, at every line of its log and at its end."""

import dataclasses
import json
import os
import socket
import threading

import jax
import pytest
from etils import epath
from support.tiny import tiny_config

from ddpm_jax.errors import AgreedError, TransientError, UserError
from ddpm_jax.jobs import train
from ddpm_jax.runtime import peaks, storage
from ddpm_jax.training import heartbeat
from ddpm_jax.training.heartbeat import Heartbeat, Status, read_status
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import newest_checkpoint
from ddpm_jax.training.sinks import Start

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def now(monkeypatch):
    """The time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(heartbeat.time, "time", lambda: now[0])
    return now


def beat(workdir, checkpoint=None):
    return Heartbeat(workdir, 100, lambda: checkpoint)


def line(step, **more):
    return {"step": step, "steps_per_s": 2.0, "images_per_s": 16.0, **more}


def test_the_file_has_what_is_known_at_each_time(tmp_path, now):
    ours = {"num_steps": 100, "host": socket.gethostname(), "pid": os.getpid()}
    checkpoint = {"checkpoint_step": 20, "checkpoint_time": 900.0}
    with beat(tmp_path, checkpoint=(20, 900.0)) as status:
        assert read_status(tmp_path) == Status("waiting", **ours, **checkpoint, time=1000.0)
        status.start(Start(tmp_path, {}, 20))
        now[0] = 1005.0
        status.line(line(30, held_out_loss=0.5, mfu=0.25))
        speeds = {"steps_per_s": 2.0, "images_per_s": 16.0, "mfu": 0.25, "seconds_per_line": 5.0}
        expected = {**ours, **checkpoint, **speeds, "held_out_loss": 0.5}
        assert read_status(tmp_path) == Status("training", step=30, seconds_left=35.0, **expected, time=1005.0)
        now[0] = 1010.0
        status.line(line(40, mfu=0.25))
        assert read_status(tmp_path) == Status("training", step=40, seconds_left=30.0, **expected, time=1010.0)
        status.line(line(100, mfu=0.25))
    assert read_status(tmp_path) == Status("finished", step=100, **expected | {"seconds_per_line": 30.0},
                                           seconds_left=0.0, time=1010.0)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (SystemExit(75), "stopped"),
        (TransientError("busy; wait"), "stopped"),
        (UserError("mistyped; correct it"), "needs you"),
        (ValueError("a bug\nin many lines"), "needs you"),
    ],
)
def test_it_has_how_the_run_has_ended_until_that_is_known_of_another_start(tmp_path, now, error, state):
    def body():
        with beat(tmp_path) as status:
            status.line(line(10))
            now[0] = 1010.0
            if error:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    ended, said = read_status(tmp_path), isinstance(error, Exception)
    assert (ended.state, ended.step, ended.seconds_left, ended.time) == (state, 10, None, 1010.0)
    assert ended.last_error == (str(error).splitlines()[0] if said else None)
    assert ended.last_error_time == (1010.0 if said else None)
    now[0] = 1020.0
    with beat(tmp_path):
        again = read_status(tmp_path)
    assert dataclasses.replace(again, state=state, time=1010.0, steps_per_s=2.0, images_per_s=16.0,
                               seconds_per_line=5.0) == ended  # fmt: skip
    assert again.state == "waiting"


def test_of_several_processes_the_first_writes_and_the_error_of_another_one_stays(tmp_path, now, monkeypatch):
    """The first one hears of it only that a connection is lost."""
    first, other = beat(tmp_path), beat(tmp_path)
    with first:
        first.line(line(10))
        before = read_status(tmp_path)
        monkeypatch.setattr(heartbeat, "is_first", lambda: False)
        other.__enter__()
        other.__exit__(AgreedError, AgreedError("of all"), None)
        other.__exit__(TransientError, TransientError("lost"), None)
        assert read_status(tmp_path) == before
        now[0] = 1010.0
        other.__exit__(UserError, UserError("cannot read cat.png; replace it"), None)
        monkeypatch.setattr(heartbeat, "is_first", lambda: True)
        now[0] = 1070.0
        first.__exit__(TransientError, TransientError("lost"), None)
        ended = read_status(tmp_path)
    assert (ended.state, ended.last_error, ended.time) == ("needs you", "cannot read cat.png; replace it", 1010.0)
    assert ended.step == 10  # as the first one knows it
    with beat(tmp_path):
        assert read_status(tmp_path).state == "waiting"
    assert read_status(tmp_path).state == "stopped"


def test_training_does_not_wait_for_the_status_in_a_bucket(monkeypatch):
    held, written = threading.Event(), []

    def write(path, content):
        status = json.loads(content)
        if status["state"] == "training":
            assert held.wait(10)
        written.append((status["state"], status["step"]))

    monkeypatch.setattr(storage, "write_bytes", write)
    monkeypatch.setattr(storage, "read_bytes", lambda path: b"")
    with beat(epath.Path("gs://bucket/run")) as status:
        for step in (10, 20, 100):
            status.line(line(step))
        assert written == [("waiting", None)]
        held.set()
    assert [step for state, step in written if state == "training"]
    assert written[-1] == ("finished", 100)


def test_a_status_that_cannot_be_written_is_one_warning(tmp_path, capsys):
    (tmp_path / "status.json").mkdir()
    with beat(tmp_path) as status:
        status.line(line(1))
    assert capsys.readouterr().err == "warning: cannot write the status of the run: [Errno 21] Is a directory: " + (
        f"'{tmp_path}/.status.{os.getpid()}.json' -> '{tmp_path}/status.json'\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 3}'])
def test_a_file_that_is_no_status_is_none(tmp_path, text):
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) is None


def test_a_status_of_a_later_version_is_read(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"state": "training", "step": 3, "colour": "red"}))
    assert read_status(tmp_path) == Status("training", step=3)


def test_a_run_writes_it_while_it_trains(tmp_path):
    """And what fails before the first step leaves nothing."""
    seen = []

    def look(step, state, metrics):
        seen.append(read_status(tmp_path / "run"))

    train.train(tiny_config(train__num_steps=4), tmp_path / "run", hooks=[look])
    assert [(status.state, status.step, status.num_steps) for status in seen] == [
        ("training", i, 4) for i in range(1, 5)
    ]
    ended = read_status(tmp_path / "run")
    assert (ended.state, ended.checkpoint_step, ended.seconds_left) == ("finished", 4, 0.0)
    assert (ended.checkpoint_step, ended.checkpoint_time) == newest_checkpoint(tmp_path / "run")
    assert ended.mfu is None  # the peak of a CPU is not known
    with pytest.raises(UserError, match="batch of 7 "):
        train.train(tiny_config(train__batch_size=7), tmp_path / "other")
    with pytest.raises(UserError, match="ended after step 0"):
        train.train(tiny_config(data__on_device=False), tmp_path / "other", source=[])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_bytes(path, b"before")
    monkeypatch.setattr(storage.os, "replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        storage.write_bytes(path, b"after")
    assert path.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("kind", "teraflops", "gigabytes"),
    [
        ("TPU v4", 275, 1200),
        ("TPU v5 lite", 197, 819),
        ("TPU v5", 459, 2765),
        ("TPU v6 lite", 918, 1640),
        ("NVIDIA H100 80GB HBM3", 989.4, 3350),
        ("NVIDIA H100 PCIe", 756, 2000),
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA B200", 2250, 8000),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA L40S", 362, 864),
    ],
)
def test_the_peak_is_that_of_the_longest_name(kind, teraflops, gigabytes):
    assert peaks.peak_of(kind) == (teraflops * 1e12, gigabytes * 1e9)


@pytest.mark.parametrize("kind", ["NVIDIA L400", "TPU v50", "cpu"])
def test_the_peak_of_other_devices_is_not_known(kind):
    assert peaks.peak_of(kind) is None


def test_the_arithmetic_is_counted_for_devices_whose_plugin_cannot_count(monkeypatch):
    """As those of TPUs and GPUs: JAX refuses to count for them."""
    from jax._src.interpreters import pxla

    from ddpm_jax.jobs import costs

    monkeypatch.setattr(pxla.xb, "using_pjrt_c_api", lambda backend: True)
    lowered = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((64, 64), "float32"))
    assert lowered.cost_analysis() is None
    assert costs.flops(lowered) == 2 * 64**3


@pytest.mark.slow
def test_the_share_of_the_peak_is_by_the_arithmetic_of_a_step_which_is_traced_once(tmp_path, monkeypatch):
    """With the same peak for every device, the share of eight devices is that of one with eight times the peak."""
    from ddpm_jax.jobs import peak
    from ddpm_jax.training import loop

    traces, step = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: traces.append(1) or step(*args))
    monkeypatch.setattr(peak, "peak_of", lambda kind: peaks.Peak(1e12, 1e12))
    train.train(tiny_config(train__num_steps=1), tmp_path)
    status, (line,) = read_status(tmp_path), read_log(tmp_path)
    assert line["mfu"] == status.mfu
    flops = status.mfu * 1e12 * len(jax.devices()) / status.steps_per_s
    assert 8 * 1e6 < flops < 8 * 1e8  # a batch of 8 images
    assert len(traces) == 1

"""The log of a run goes to an experiment tracker, under one id however often the run is started."""

import json
import signal
import struct
import threading

import numpy as np
import pytest
from PIL import Image
from support.tiny import tiny_config

from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.factory import sinks
from ddpm_jax.jobs import train
from ddpm_jax.training import trackers
from ddpm_jax.training.log import read_log
from ddpm_jax.training.sinks import Start
from ddpm_jax.training.trackers import Tracker

PICTURE = np.random.default_rng(0).integers(0, 255, (8, 12, 1)).astype(np.uint8)
CONFIG = {"train": {"num_steps": 5}}
RUN = {"train__num_steps": 4, "checkpoint__every": 4, "log__preview_every": 4}


class Memory:
    """A client that keeps what it gets, over all its starts; a call named in `fails` raises."""

    name = "memory"

    def __init__(self, fails=()):
        self.opened, self.got, self.closed, self.fails = [], [], [], set(fails)

    def _called(self, name):
        if name in self.fails:
            raise ConnectionError(f"{name} failed\nin two lines")

    def open(self, start, run_id):
        self._called("open")
        self.opened.append((start.step, run_id))
        return run_id or "the id", 0

    def numbers(self, step, numbers):
        self._called("numbers")
        self.got.append((step, dict(numbers)))

    def picture(self, step, name, image):
        self.got.append((step, name))

    def close(self, error, done):
        self.closed.append((error, done))


def session(sink, workdir, steps, *, start=0, error=None):
    """One start of a run: a line for each step, and a picture at the last one."""
    sink.start(Start(workdir, {**CONFIG, "name": "a run", "optim": {"rate": 0.1}}, start))
    for step in steps:
        sink.line({"step": step, "loss": 1 / step})
    sink.picture("ema", PICTURE, step=steps[-1])
    sink.end(error)


def test_a_run_that_is_resumed_continues_under_its_id_and_sends_no_step_twice(tmp_path):
    """It takes steps 3 and 4 again, since its checkpoint is that of step 2."""
    client, error = Memory(), KeyboardInterrupt()
    sink = Tracker(client)
    session(sink, tmp_path, [1, 2, 3, 4], error=error)
    session(sink, tmp_path, [3, 4, 5], start=2)
    assert client.opened == [(0, None), (2, "the id")]
    assert [item if isinstance(item[1], str) else item[0] for item in client.got] == [
        1,
        2,
        3,
        4,
        (4, "ema"),
        5,
        (5, "ema"),
    ]
    assert client.got[0] == (1, {"loss": 1.0})
    assert client.closed == [(error, False), (None, True)]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"memory": "the id"}


def test_a_run_that_is_stopped_is_not_done(tmp_path):
    """Also if the tracker has its last line already, from before a kill; and one without further steps is."""
    client = Memory()
    session(Tracker(client), tmp_path, [1, 2])
    client.open = lambda start, run_id: ("the id", 5)
    session(Tracker(client), tmp_path, [3, 4], start=2)
    done = Tracker(client)
    done.start(Start(tmp_path, CONFIG, 5))
    done.end(None)
    assert client.closed == [(None, False), (None, False), (None, True)]


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_that_sigterm_stops_is_not_done_until_it_goes_on(tmp_path):
    client, stops = Memory(), lambda step, *_: step == 2 and signal.raise_signal(signal.SIGTERM)
    for hooks in ([stops], []):
        train.train(tiny_config(**RUN), tmp_path, hooks=hooks, sinks=[Tracker(client)])
    assert client.closed == [(None, False), (None, True)]


def test_what_the_tracker_has_of_earlier_processes_is_not_sent_again(tmp_path):
    client = Memory()
    client.open = lambda start, run_id: ("the id", 4)
    session(Tracker(client), tmp_path, [3, 4, 5], start=2)
    assert [step for step, _ in client.got] == [5, 5]


def test_a_tracker_that_fails_is_one_warning_and_the_next_lines_are_sent(tmp_path, capsys):
    client = Memory(fails={"numbers"})
    sink = Tracker(client)
    sink.start(Start(tmp_path, CONFIG))
    for step in (1, 2, 3):
        sink.line({"step": step, "loss": 1.0})
    sink._thread.submit(client.fails.clear).result()
    sink.line({"step": 4, "loss": 1.0})
    sink.end(None)
    assert [step for step, _ in client.got] == [4]
    warning = "warning: a line or a picture could not be sent to memory: numbers failed\n"
    assert capsys.readouterr().err == warning


def test_a_tracker_that_cannot_be_reached_refuses_a_new_run_and_is_a_warning_when_one_is_resumed(tmp_path, capsys):
    client = Memory(fails={"open"})
    with pytest.raises(
        UserError, match=r"^cannot start a run in memory: open failed; correct its settings, or leave it"
    ):
        session(Tracker(client), tmp_path, [1])
    assert not list(tmp_path.iterdir())
    (tmp_path / "trackers.json").write_text('{"memory": "the id", "other": "another"}')
    session(Tracker(client), tmp_path, [1])
    expected = "cannot continue the run in memory, which gets nothing until the next start: open failed"
    assert capsys.readouterr().err == f"warning: {expected}\n"
    assert (client.got, client.closed) == ([], [])


def test_a_tracker_that_does_not_answer_stops_neither_a_step_nor_the_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "_SECONDS", 0.01)
    client, free = Memory(), threading.Event()
    client.numbers = lambda step, numbers: free.wait()
    session(Tracker(client), tmp_path, [1, 2])
    assert capsys.readouterr().err == "warning: memory did not take the end of the log: no answer\n"
    free.set()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_whose_package_is_missing_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(UserError, match=f"^config.log.sinks has '{name}', which needs a package: pip install {name}"):
        sinks(tiny_config(log__sinks=(name,)))


def test_mlflow_has_a_run_that_was_started_twice_as_one(tmp_path, monkeypatch, quick_compilation):
    """With the numbers of its log at increasing steps, its pictures and its configuration."""
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install -r requirements/mlflow.txt")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database otherwise
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    from mlflow.tracking import MlflowClient

    config, workdir = tiny_config(**RUN, log__sinks=("mlflow",)), tmp_path / "run"
    train.train(config, workdir, hooks=[lambda step, *_: step == 2 and signal.raise_signal(signal.SIGTERM)])
    client = MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == "ddpm_jax"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    train.train(config, workdir)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params["optim.learning_rate"] == str(config.optim.learning_rate)
    assert json.loads((workdir / "trackers.json").read_text()) == {"mlflow": run.info.run_id}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (line["step"], line["loss"]) for line in read_log(workdir)
    ]
    assert len(client.list_artifacts(run.info.run_id, "images")) >= 2
    stored = client.download_artifacts(run.info.run_id, "config.json", str(tmp_path))
    with open(stored) as file:
        assert json.load(file) == to_json(config)


def records(path):
    """The records of an offline run of Weights & Biases: a file header, then LevelDB's log in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_weights_and_biases_has_the_lines_the_pictures_and_the_configuration(tmp_path, monkeypatch):
    """Of each start in a folder of its own, offline, with the same id."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install -r requirements/wandb.txt")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    (first,) = sinks(tiny_config(log__sinks=("wandb",)))
    session(first, tmp_path, [1, 2])
    (second,) = sinks(tiny_config(log__sinks=("wandb",)))
    session(second, tmp_path, [3, 4], start=2, error=ValueError())
    wandb.teardown()  # ends its process, which may still be writing
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    found = [list(records(file)) for file in files]
    (run_id,) = {record.run.run_id for group in found for record in group if record.HasField("run")}
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": run_id}
    history = [record.history for group in found for record in group if record.HasField("history")]
    losses = [(line.step.num, item.value_json) for line in history for item in line.item if "loss" in item.nested_key]
    assert [(step, float(text)) for step, text in losses] == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)]
    configs = [{item.key: json.loads(item.value_json) for item in record.run.config.update}
               for group in found for record in group if record.HasField("run")]  # fmt: skip
    assert all(config["name"] == "a run" and config["optim"] == {"rate": 0.1} for config in configs)
    pictures = sorted(tmp_path.glob("wandb/offline-run-*/files/media/images/ema_*.png"))
    assert len(pictures) == 2
    assert np.array_equal(np.asarray(Image.open(pictures[0]))[..., None], PICTURE)
    codes = [record.exit.exit_code for group in found for record in group if record.HasField("exit")]
    assert codes == [0, 1]

"""The log of a run goes to sinks: those of the configuration, and those of a program."""

import numpy as np
import pytest
from support.tiny import tiny_config, untimed

import ddpm_jax as dj
from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.training.goodput import TIMED
from ddpm_jax.training.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Told(dj.Sink):
    """A sink that keeps what it is told, and may fail at a step."""

    def __init__(self, fails_at=0):
        self.starts, self.lines, self.pictures, self.calls, self.fails_at = [], [], [], [], fails_at

    def start(self, start):
        self.starts.append(start)
        self.calls.append("start")

    def line(self, line):
        if line["step"] == self.fails_at:
            raise ValueError("no more")
        self.lines.append({name: value for name, value in line.items() if name not in TIMED})
        self.calls.append(line["step"])

    def picture(self, name, image, *, step):
        self.pictures.append((name, step, image.shape, image.dtype))

    def store(self):
        self.calls.append("store")

    def end(self, error):
        self.calls.append(error)


def test_a_sink_of_a_program_is_told_what_the_log_has_with_the_configuration_and_the_pictures(tmp_path):
    """Again from the checkpoint when the run is resumed; what it has in memory is stored before each save."""
    told, config = Told(), tiny_config(train__num_steps=2, log__preview_every=2)
    outcome = train.start(config, tmp_path, sinks=[told])
    assert told.lines == untimed(tmp_path)
    assert told.calls == ["start", 1, 2, "store", "store", None]
    assert [(name, step, dtype) for name, step, _, dtype in told.pictures] == [
        ("raw", 2, np.uint8),
        ("ema", 2, np.uint8),
    ]
    assert {shape[2] for _, _, shape, _ in told.pictures} == {1}
    assert outcome.seconds["previews"] > 0
    (start,) = told.starts
    assert (start.workdir, start.step, start.rolled_back_from, start.term) == (tmp_path, 0, 0, 0)
    assert start.config == to_json(config)
    more = Told()
    train.train(tiny_config(train__num_steps=3), tmp_path, sinks=[more])
    assert ([start.step for start in more.starts], more.calls) == ([2], ["start", 3, "store", "store", None])
    assert more.lines == untimed(tmp_path)[2:]


def test_an_error_in_a_sink_ends_the_run_after_its_state_is_saved_and_every_sink_is_told(tmp_path):
    told, failing = Told(), Told(fails_at=3)
    with pytest.raises(ValueError, match="no more") as caught:
        train.train(tiny_config(log__sinks=()), tmp_path, sinks=[told, failing])
    assert (told.calls[-1], failing.calls[-1]) == (caught.value, caught.value)
    assert saved_steps(tmp_path / "checkpoints")[0] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "log.jsonl", "status.json"]


def test_a_sink_that_cannot_start_ends_those_before_it_and_leaves_nothing(tmp_path):
    class Refuses(dj.Sink):
        def start(self, start):
            raise OSError("not today")

    told = Told()
    with pytest.raises(UserError, match=r"^cannot write the log in .*: not today; fix the cause; then"):
        train.train(tiny_config(), tmp_path / "run", sinks=[told, Refuses()])
    assert [type(call) for call in told.calls] == [str, UserError]
    assert not list(tmp_path.iterdir())


class _NoSink:
    def line(self, line):
        pass


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        (Told(), r"^sinks= must be a list of Sink objects: write sinks=\[sink\]$"),
        (3, r"^sinks= must be a list"),
        ([Told], r"^sinks= has the class Told: give an object of it, as in Told\(\.\.\.\)$"),
        (
            [_NoSink()],
            r"^sinks= has an object of _NoSink, which lacks a method of a Sink: derive its class from ddpm_jax",
        ),
    ],
)
def test_what_is_no_sink_is_refused(tmp_path, sinks, message):
    with pytest.raises(UserError, match=message):
        train.train(tiny_config(), tmp_path / "run", sinks=sinks)
    assert not list(tmp_path.iterdir())

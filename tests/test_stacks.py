"""A process that hangs says where: by itself if no step ends, and when it is asked by a signal."""

import faulthandler
import signal
import time

import pytest
from support import tiny
from support.tiny import tiny_config

from ddpm_jax.jobs import train
from ddpm_jax.training import stacks
from ddpm_jax.training.stacks import StacksOfAHang

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Clock:
    """A clock that is set by hand, and what it was asked to write."""

    def __init__(self):
        self.now, self.asked, self.cancelled = 1000.0, [], 0

    def monotonic(self):
        return self.now

    def dump_traceback_later(self, seconds, file):
        self.asked.append((self.now, seconds))

    def cancel_dump_traceback_later(self):
        self.cancelled += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stacks, "time", clock)
    monkeypatch.setattr(stacks, "faulthandler", clock)
    return clock


def test_the_time_without_a_step_is_by_the_longest_so_far(clock):
    with StacksOfAHang(10, least=300) as hook:
        for step, seconds in enumerate([500, 20, 40, 30, 1, 1, 1], 1):  # the first one compiles
            clock.now += seconds
            hook(step, None, {})
    assert clock.asked == [(1520, 300), (1560, 400), (1590, 400), (1593, 400)]
    assert clock.cancelled == 1


def test_0_never_starts_the_clock(clock):
    with StacksOfAHang(0) as hook:
        for step in (1, 2, 3):
            clock.now += 1000
            hook(step, None, {})
    assert (clock.asked, clock.cancelled) == ([], 0)


def test_a_run_restarts_the_clock_while_it_trains(clock, tmp_path):
    train.train(tiny_config(train__num_steps=2, log__stacks_after=7.0), tmp_path, hooks=[lambda *args: tick(clock)])
    assert clock.asked == [(1100 + 100 * i, 700) for i in range(len(clock.asked))]
    assert len(clock.asked) == 1
    assert clock.cancelled == 1


def tick(clock):
    clock.now += 100


def test_a_hang_shows_every_thread(tmp_path):
    path = tmp_path / "stacks"
    with path.open("wb") as file, StacksOfAHang(1, least=0.05, file=file.fileno()) as hook:
        for step in (1, 2):
            time.sleep(0.001)
            hook(step, None, {})
        while "test_a_hang_shows_every_thread" not in path.read_text():
            time.sleep(0.01)
    assert "(most recent call first):" in path.read_text()


def test_a_signal_shows_every_thread_of_a_program_and_does_not_end_it(monkeypatch, capfd, tmp_path):
    def start(config, workdir, **options):
        signal.raise_signal(signal.SIGUSR1)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "start", start)
    try:
        assert tiny.run("train.py", f"--workdir={tmp_path}").status == 130
    finally:
        faulthandler.unregister(signal.SIGUSR1)
    assert "in start\n" in capfd.readouterr().err

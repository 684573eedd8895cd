"""SIGTERM, as before a preemption, loses no step, at whatever moment of a step it comes."""

import signal

import pytest
from support.tiny import tiny_config

from ddpm_jax.jobs import train
from ddpm_jax.training import log
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.log import RunLog
from ddpm_jax.training.restoring import saved_steps, stored_record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

STEPS = 12
DURING = {1: (RunLog, "add"), 3: (RunLog, "flush"), 8: (Checkpoints, "save")}  # by the step; and during a hook at 10


def signalling(monkeypatch, kind, name):
    """Lets a method raise SIGTERM once, in its middle."""
    original = getattr(kind, name)

    def method(self, *args):
        monkeypatch.setattr(kind, name, original)
        signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(kind, name, method)


def test_sigterm_at_any_moment_of_a_step_loses_none(tmp_path, monkeypatch):
    config = tiny_config(train__num_steps=STEPS, checkpoint__every=4, model__dropout=0.1)
    ends = []

    def hook(step, state, metrics):
        if step == 10:
            signal.raise_signal(signal.SIGTERM)
        if step + 1 in DURING:
            signalling(monkeypatch, *DURING[step + 1])

    signalling(monkeypatch, *DURING[1])
    while not ends or ends[-1][0] is not None:
        outcome = train.start(config, tmp_path / "ended", hooks=[hook])
        logged = log.read_log(tmp_path / "ended")[-1]["step"]
        ends.append((outcome.stopped, logged, saved_steps(tmp_path / "ended" / "checkpoints")[0]))
    term = signal.SIGTERM
    assert ends == [(term, 1, 1), (term, 4, 4), (term, 9, 9), (term, 11, 11), (None, STEPS, STEPS)]
    train.train(config, tmp_path / "whole")
    ended, whole = (stored_record(tmp_path / name / "checkpoints" / str(STEPS)) for name in ("ended", "whole"))
    assert ended.digests == whole.digests

"""The log of a run in a bucket: training does not wait for it until it is stored, and errors are raised then."""

import threading

import pytest
from etils import epath

from ddpm_jax.runtime import storage
from ddpm_jax.training.log_lines import LogFile
from ddpm_jax.training.sinks import Start


def test_training_does_not_wait_for_the_log_in_a_bucket_until_it_is_stored(monkeypatch):
    held, written = threading.Event(), {}

    def write(path, content):
        if threading.current_thread() is not threading.main_thread():
            assert held.wait(10)
        written[path.name] = content.count(b"\n")

    monkeypatch.setattr(storage, "write_bytes", write)
    monkeypatch.setattr(storage, "names", lambda folder: [])
    log = LogFile()
    log.start(Start(epath.Path("gs://bucket/run"), {}, step=4, term=2))
    for step in (5, 6, 7):
        log.line({"step": step})
    assert written == {}
    held.set()
    log.store()
    assert written == {"000002-0001-0000000004-000000.jsonl": 3}


def test_a_log_in_a_bucket_that_cannot_be_written_is_an_error_when_it_is_stored(monkeypatch):
    def fail(path, content):
        raise OSError("denied")

    monkeypatch.setattr(storage, "write_bytes", fail)
    monkeypatch.setattr(storage, "names", lambda folder: [])
    log = LogFile()
    log.start(Start(epath.Path("gs://bucket/run"), {}))
    log.line({"step": 1})
    with pytest.raises(OSError, match="denied"):
        log.store()

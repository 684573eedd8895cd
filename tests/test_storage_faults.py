"""The benchmark of faulty storage sees what a run loses, and its bucket goes wrong as a schedule says."""

import http.client
import importlib
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.tiny import ROOT

from ddpm_jax.errors import UserError

WHOLE = {2: "a", 4: "b"}  # the digests of checkpoints by step
LOG = [{"step": step, "loss": 1 / step} for step in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def part():
    """Function from the name of a module of the benchmarks to the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


@pytest.mark.parametrize(
    ("checkpoints", "log", "unsaved", "lost", "changed"),
    [
        (WHOLE, LOG, (), [], []),
        ({3: "c", 4: "b"}, LOG, (), ["checkpoint 2"], []),
        ({3: "c", 4: "b"}, LOG, (2,), [], []),
        ({2: "a", 3: "c"}, LOG, (4,), ["checkpoint 4"], []),
        ({2: "a", 3: "x", 4: "y"}, LOG, (), [], ["checkpoint 3", "checkpoint 4"]),
        (WHOLE, LOG[1:], (), ["line 1"], []),
        (WHOLE, [*LOG[:3], {"step": 4, "loss": 0}], (), [], ["line 4"]),
        (WHOLE, [*LOG, LOG[0]], (), [], ["lines that are there twice"]),
    ],
    ids=[
        "whole",
        "none",
        "none, as it said",
        "not the last",
        "other arrays",
        "no line",
        "another line",
        "a line twice",
    ],
)
def test_what_is_lost_and_what_is_changed_is_seen(part, checkpoints, log, unsaved, lost, changed):
    """A run that was saved more often than the whole one is compared with one that was saved at every step."""
    runs = part("_faulty_runs")
    whole, every = runs.Ended(WHOLE, LOG), runs.Ended({**WHOLE, 1: "d", 3: "c"}, LOG)
    found = runs.Ended(checkpoints, log)
    assert runs.differences(whole, every, found, unsaved=unsaved) == (lost, changed)


def test_an_error_without_a_remedy_is_none_for_a_user(part):
    helpful = part("_faulty_runs").is_helpful
    assert helpful(UserError("cannot save: the disk is full; free some space, and start again"))
    assert not helpful(UserError("cannot save: the disk is full"))
    assert not helpful(OSError("cannot save; free some space"))


@pytest.fixture(scope="module")
def server(part):
    """The module of the faulty bucket, and a function that sends one request to it."""
    faulty = part("_faulty_bucket")

    def request(method, path, body=None):
        connection = http.client.HTTPConnection("localhost", httpd.server_address[1], timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "text/plain"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    with faulty.emulator.server_at(0, faulty.FaultyHandler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield faulty, request
        httpd.shutdown()
        thread.join()


def _await_count(faults, counts):
    """Waits until these faults are counted, which happens after the answer, in the thread of the server."""
    deadline = time.monotonic() + 30
    while faults.came != counts:
        assert time.monotonic() < deadline, faults.came
        time.sleep(0.01)


READ, LIST = "/download/storage/v1/b/bucket/o/x?alt=media", "/storage/v1/b/bucket/o"
WRITE = "/upload/storage/v1/b/bucket/o?uploadType=media&name=x"
CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, http.client.IncompleteRead)


@pytest.mark.parametrize(
    ("kind", "answer", "content"),
    [
        ("unavailable", 503, "old"),
        ("server error", 500, "old"),
        ("too many", 429, "old"),
        ("permission", 403, "old"),
        ("delay", 200, "new"),
        ("cut write", None, "old"),
        ("no answer", None, "new"),
    ],
)
def test_a_write_that_goes_wrong(server, monkeypatch, kind, answer, content):
    """Once: the next one is as it should be, and the fault is counted."""
    faulty, request = server
    monkeypatch.setattr(faulty, "_SECONDS", 0)
    faults = faulty.FaultyHandler.faults
    request("POST", WRITE, "old")
    faults.plan([faulty.Fault(kind, 1, 1)])
    if answer:
        assert request("POST", WRITE, "new")[0] == answer
    else:
        with pytest.raises(CLOSED):
            request("POST", WRITE, "new")
    assert request("GET", READ) == (200, content)
    _await_count(faults, {kind: 1})
    assert faults.number == 2


def test_a_read_that_is_cut_off_and_a_list_that_lags(server):
    faulty, request = server
    faults = faulty.FaultyHandler.faults
    faults.plan([faulty.Fault("cut read", 2, 1), faulty.Fault("lagging list", 10, 1)])
    request("POST", WRITE, "a long text of which a part is lost" * 20)
    with pytest.raises(CLOSED):
        request("GET", READ)
    for _ in range(6):  # the eighth one is remembered, without the object that comes then
        request("GET", READ)
    request("POST", WRITE.replace("=x", "=later"), "text")
    listed = [[item["name"] for item in json.loads(request("GET", LIST)[1])["items"]] for _ in range(2)]
    assert listed == [["x"], ["later", "x"]]
    _await_count(faults, {"cut read": 1, "lagging list": 1})


def test_schedules_are_those_of_their_seeds_and_have_all_kinds(part):
    faulty = part("_faulty_bucket")
    drawn = [faulty.drawn(np.random.default_rng(seed), 600) for seed in range(50)]
    assert drawn == [faulty.drawn(np.random.default_rng(seed), 600) for seed in range(50)]
    assert {fault.kind for faults in drawn for fault in faults} == {*faulty.KINDS}
    assert all(0 <= fault.first < 600 for faults in drawn for fault in faults)


@pytest.mark.slow
def test_runs_with_faults_lose_nothing(tmp_path):
    """A few schedules; the same command goes on after the last one."""
    out = tmp_path / "faults.jsonl"
    for schedules in (1, 3):
        command = [sys.executable, "benchmarks/storage_faults.py", f"--schedules={schedules}", f"--out={out}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [result["seed"] for result in results] == [0, 1, 2]
    assert sum(sum(result["faults"].values()) for result in results) > 0
    assert not any(result["lost"] or result["changed"] or result["unhelpful"] for result in results)
    assert "results lost: 0\nresults changed: 0\n" in done.stdout

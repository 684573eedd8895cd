"""One process at a time writes a run in a bucket, whatever becomes of the others."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.tiny import ROOT, arguments, random_state, same, tiny_config

from ddpm_jax.commands import endings
from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import conditional, paths, storage
from ddpm_jax.runtime import lease as lease_module
from ddpm_jax.runtime.lease import Lease, LostError
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = {"diffusion__num_timesteps": 4}
ELSEWHERE = {"host": "another", "boot": "b", "pid": 7, "start": "1"}


@pytest.fixture
def place(bucket, request, monkeypatch):
    """A folder of its own in the bucket, where a holder is lost after a tenth of the usual time."""
    monkeypatch.setattr(lease_module, "BEAT", 0.5)
    return paths.any_path(f"{bucket}/{request.node.name}")


@pytest.fixture
def elsewhere(monkeypatch):
    """Lets processes that start now believe that they run on another host."""
    monkeypatch.setattr(lease_module, "_this_process", lambda: ELSEWHERE)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that a process waits for a sign of the holder, one number for each look at the bucket."""
    seconds, sleep = [], time.sleep
    monkeypatch.setattr(lease_module.time, "sleep", lambda pause: seconds.append(pause) or sleep(pause))
    return seconds


def stopped(lease):
    """A lease whose process no longer renews it, as one that is stopped."""
    lease._stop.set()
    lease._thread.join()
    return lease


def stored(path):
    return json.loads(storage.read_bytes(path))


def test_a_second_process_is_refused_while_the_first_renews(place, elsewhere):
    first = Lease(place, what="gs://bucket/run")
    with pytest.raises(UserError, match=r"^another process \(process 7 on another\) is training in gs://bucket/run; w"):
        Lease(place, what="gs://bucket/run")
    first.update(lambda content: {**content, "mine": [1]})
    first.close()
    second = Lease(place, what="gs://bucket/run")
    assert (second.term, second.content["mine"]) == (2, [1])
    second.close()
    assert stored(place)["holder"] is None


def test_a_silent_holder_is_replaced_and_then_can_write_nothing(place, elsewhere, waits):
    first = stopped(Lease(place, what="run"))
    second = Lease(place, what="run")
    assert waits
    second.update(lambda content: {**content, "whose": "second"})
    with pytest.raises(LostError, match=r"^another process has taken over the run in run, because this one did not an"):
        first.update(lambda content: {**content, "whose": "first"})
    with pytest.raises(LostError):
        first.check()
    first.close()
    second.check()
    assert (stored(place)["whose"], stored(place)["term"]) == ("second", 2)
    second.close()


def test_a_holder_that_wakes_up_learns_of_it_at_its_next_beat(place, elsewhere):
    first = stopped(Lease(place, what="run"))
    second = Lease(place, what="run", now=True)
    first._stop.clear()
    first._renew()  # returns, because it is lost
    with pytest.raises(LostError):
        first.check()
    second.close()


def test_a_process_of_this_host_that_has_ended_is_replaced_at_once(place, waits):
    ended = subprocess.Popen(["true"])
    gone = {**lease_module._this_process(), "pid": ended.pid}
    ended.wait()
    conditional.write_if(place, json.dumps({"holder": gone, "token": "x", "beat": 3, "term": 4}).encode(), 0)
    lease = Lease(place, what="run")
    assert (lease.term, waits) == (5, [])
    lease.close()


@pytest.mark.parametrize("change", [{"host": "another"}, {"boot": "another"}])
def test_the_number_of_a_process_says_nothing_of_another_host(change):
    process = {**lease_module._this_process(), "pid": 2**22 + 1, **change}
    assert not lease_module._has_ended(process)


def test_of_many_that_start_at_once_one_holds_it(place, elsewhere):
    held, refused = [], []

    def start():
        try:
            held.append(Lease(place, what="run"))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    assert all("is training in run" in message for message in refused)
    held[0].close()


def test_a_write_whose_answer_is_lost_is_not_taken_for_that_of_another_process(place, monkeypatch):
    lease = stopped(Lease(place, what="run"))

    def unanswered(*args, **options):
        real(*args, **options)
        raise OSError("the connection was closed")

    with monkeypatch.context() as patched:
        real = lease_module.write_if
        patched.setattr(lease_module, "write_if", unanswered)
        with pytest.raises(OSError, match="the connection was closed"):
            lease.update(lambda content: {**content, "steps": [*content.get("steps", []), 1]})
    lease.update(lambda content: {**content, "steps": [*content.get("steps", []), 2]})
    assert stored(place)["steps"] == [1, 2]
    lease.close()


def test_a_lease_that_held_nothing_leaves_nothing(place):
    with Checkpoints(place / "run"):
        assert storage.names(place / "run" / "checkpoints")
    assert storage.files_below(place) == []


def test_what_a_stopped_holder_still_writes_is_never_taken_for_a_checkpoint(place, elsewhere, monkeypatch):
    """It has begun to save step 4 when another process takes over, saves another step 4 and step 6."""
    config, workdir = tiny_config(**CONFIG), place / "run"
    first = Checkpoints(workdir)
    first.save(random_state(config, step=2), to_json(config))
    first.wait()
    stopped(first._store._lease)
    written, resumed = threading.Event(), threading.Event()
    publish = first._store.publish

    def paused(step):
        written.set()
        resumed.wait()
        publish(step)

    first._store.publish = paused
    first.save(random_state(config, step=4), to_json(config))
    written.wait()
    assert saved_steps(workdir / "checkpoints") == [2]
    with Checkpoints(workdir) as second:
        assert second.term == 2
        other = random_state(config, step=4)
        other = other.replace(params=other.ema_params)
        second.save(other, to_json(config))
        second.wait()
        resumed.set()
        with pytest.raises(LostError):
            first.wait()
        with pytest.raises(LostError):
            first.save(random_state(config, step=8), to_json(config))
        with pytest.raises(LostError):
            first.check_held(4, None, {})
        storage.write_bytes(workdir / "checkpoints/t1/8/late", b"")
        second.save(random_state(config, step=6), to_json(config))
    first.__exit__(None, None, None)
    assert saved_steps(workdir / "checkpoints") == [6, 4, 2]
    assert same(Run(workdir).params, random_state(config, step=6).ema_params)
    places = stored(workdir / "checkpoints/manifest.json")["checkpoints"]
    assert places == {"2": "t1/2", "4": "t2/4", "6": "t2/6"}
    with Checkpoints(workdir):
        assert storage.names(workdir / "checkpoints/t1") == ["2"]  # the next one removes what the first one left


PROGRAM = """
import sys
from ddpm_jax.runtime import lease
lease.BEAT = 1.0
from ddpm_jax.commands.train import command
sys.argv[0] = "train.py"
command()
"""


def start(tmp_path, *args, **options):
    """The training program, whose lease is lost after three seconds."""
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "program.py", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)


def until(condition, *processes):
    while not condition():
        assert all(process.poll() is None for process in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.02)


@pytest.mark.slow
def test_of_two_trainers_on_one_run_exactly_one_trains(place, tmp_path):
    config = tiny_config(**CONFIG, train__num_steps=40)
    processes = [start(tmp_path, f"--workdir={place}/run", *arguments(config)) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, endings.START_AGAIN], outputs
    (refused,) = [output for output, process in zip(outputs, processes, strict=True) if process.returncode]
    assert f"is training in {place}/run; wait until it ends, or choose another workdir" in refused
    assert "Traceback" not in refused
    train.train(config, tmp_path / "run")
    assert same(Run(place / "run").params, Run(tmp_path / "run").params)


@pytest.mark.slow
def test_a_trainer_that_is_stopped_in_a_save_and_wakes_up_changes_nothing(place, tmp_path, monkeypatch):
    """Stopped while its files are written; the other one waits for three beats, takes over and ends; then it wakes."""
    config = tiny_config(**CONFIG, train__num_steps=2000, checkpoint__every=5)
    first = start(tmp_path, f"--workdir={place}/run", *arguments(config))
    folder = place / "run" / "checkpoints"

    def in_a_save():
        listed = set(stored(folder / "manifest.json")["checkpoints"].values())
        below = {f"t1/{name}" for name in storage.names(folder / "t1")}
        return listed and below - listed

    until(lambda: storage.exists(folder / "manifest.json"), first)
    until(in_a_save, first)
    first.send_signal(signal.SIGSTOP)
    before = saved_steps(folder)
    monkeypatch.setattr(lease_module, "BEAT", 1.0)
    monkeypatch.setattr(lease_module, "_has_ended", lambda holder: False)
    last = before[0] + 20
    shorter = tiny_config(**CONFIG, train__num_steps=last, checkpoint__every=5)
    train.train(shorter, place / "run")
    first.send_signal(signal.SIGCONT)
    output = first.communicate()[0]
    assert first.returncode == endings.START_AGAIN
    assert "error: another process has taken over the run in " in output
    assert "Traceback" not in output
    assert saved_steps(folder)[0] == last
    places = stored(folder / "manifest.json")["checkpoints"]
    assert all(place.startswith("t2/") for step, place in places.items() if int(step) > before[0])
    assert [line["step"] for line in read_log(place / "run")] == [*range(1, last + 1)]
    train.train(shorter, tmp_path / "run")
    assert same(Run(place / "run").params, Run(tmp_path / "run").params)

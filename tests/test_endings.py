"""The exit code says whether to start a program again, as docs/operating.md promises."""

import errno
import os
import re
import signal
import subprocess
import sys

import jax
import pytest
from support import tiny
from support.tiny import ROOT, arguments, tiny_config

from ddpm_jax.commands import endings
from ddpm_jax.errors import AgreedError, TransientError, UserError, is_transient
from ddpm_jax.jobs import train
from ddpm_jax.runtime import devices
from ddpm_jax.training.log import RunLog
from ddpm_jax.training.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def caused_by(error, cause):
    error.__cause__ = cause
    return error


def test_the_codes_are_those_of_the_documentation():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE)
    codes = [endings.DONE, endings.START_AGAIN, endings.MEND, endings.INTERRUPTED]
    assert [int(row) for row in rows] == codes == [0, 75, 1, 130]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("mistyped"), 1),
        (ValueError("a bug"), 1),
        (AgreedError("the disk is full"), 1),
        (OSError(errno.ENOSPC, "full"), 1),
        (PermissionError(errno.EACCES, "denied"), 1),
        (FileNotFoundError(errno.ENOENT, "absent"), 1),
        (ValueError("NOT_FOUND: UNAVAILABLE is only a word here"), 1),
        (jax.errors.JaxRuntimeError("INTERNAL: of one process alone"), 1),
        (TransientError("busy"), 75),
        (TimeoutError(), 75),
        (ConnectionResetError(), 75),
        (OSError(errno.ESTALE, "the server was restarted"), 75),
        (OSError(errno.ETIMEDOUT, "no answer"), 75),
        (ValueError("UNAVAILABLE: Error writing gs://bucket/run: status 503"), 75),
        (ValueError(f"UNKNOWN: [OS error {errno.ESTALE}: ESTALE Stale file handle]"), 75),
        (caused_by(UserError("cannot save"), ValueError("DEADLINE_EXCEEDED: no answer")), 75),
        (caused_by(AgreedError("the first process failed"), TransientError("busy")), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_has_the_code_of_its_kind(error, code):
    assert endings.exit_code(error) == code
    assert is_transient(error) == (code == 75)


def test_of_several_processes_an_error_of_jax_is_a_lost_connection_unless_memory_is_short(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert endings.exit_code(jax.errors.JaxRuntimeError("INTERNAL: connection closed by peer")) == 75
    assert endings.exit_code(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")) == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("UNKNOWN: Gloo all-reduce failed: [external/gloo/transport/tcp/pair.cc] Read error"),
        ValueError("INTERNAL: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:4711"),
        caused_by(UserError("cannot read checkpoint 8"), ValueError("Gloo AllGather failed: Read timeout")),
    ],
)
def test_what_is_thrown_at_a_first_exchange_is_a_lost_connection_whatever_its_type(monkeypatch, error):
    assert endings.exit_code(error) == 1  # of a single process
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert endings.exit_code(error) == 75
    assert endings.exit_code(ValueError("another shape")) == 1


@pytest.mark.parametrize(("error", "code"), [(ConnectionResetError(), 75), (OSError(errno.ENOSPC, "full"), 1)])
def test_all_processes_end_with_the_code_of_the_first(monkeypatch, error, code):
    """The others know of its error only what was agreed."""
    agreed = []

    def failing():
        raise error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices, "agreed", lambda values: agreed.append(values) or values)
    with pytest.raises(AgreedError) as of_first:
        devices.by_first(failing)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(devices, "agreed", lambda values: agreed[0])
    with pytest.raises(AgreedError) as of_other:
        devices.by_first(lambda: pytest.fail("this process is not the first"))
    assert [endings.exit_code(raised.value) for raised in (of_first, of_other)] == [code, code]


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UserError("mistyped; correct it"), 1, "error: mistyped; correct it\n"),
        (TransientError("busy; wait"), 75, "error: busy; wait\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_program_ends_with_the_code(monkeypatch, tmp_path, error, code, printed):
    def start(config, workdir, **options):
        raise error

    monkeypatch.setattr(train, "start", start)
    begun = f"training digits up to step 2,000 in {tmp_path}\n"
    assert tiny.run("train.py", f"--workdir={tmp_path}") == (code, begun, printed)


def test_a_second_start_of_a_run_that_trains_may_be_started_again(tmp_path):
    """What started it waits until the first one ends, and finds its run finished or stopped."""
    config = tiny_config()
    with train.Checkpoints(tmp_path):
        refused = tiny.run("train.py", f"--workdir={tmp_path}", *arguments(config))
    assert refused.status == 75
    assert "another process is training" in refused.err


def test_a_run_that_a_signal_stops_is_not_done(tmp_path, monkeypatch):
    """SIGTERM asks for another start, Ctrl-C does not; the state is saved either way."""
    signals, add = {2: signal.SIGTERM, 4: signal.SIGINT}, RunLog.add

    def add_and_signal(self, step, metrics):
        add(self, step, metrics)
        if step in signals:
            signal.raise_signal(signals.pop(step))

    monkeypatch.setattr(RunLog, "add", add_and_signal)
    command = ["train.py", f"--workdir={tmp_path}", *arguments(tiny_config(train__num_steps=6, checkpoint__every=50))]
    outcomes, steps = [], []
    for _ in range(2):
        outcomes.append(tiny.run(*command).status)
        steps.append(saved_steps(tmp_path / "checkpoints")[0])
    assert (outcomes, steps) == ([75, 130], [2, 4])


def test_sigterm_outside_of_the_steps_ends_in_order(capfd):
    before, undone = signal.getsignal(signal.SIGTERM), []

    def body():
        with endings.terminated_in_order():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                undone.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(SystemExit) as end:
        body()
    assert end.value.code == 75
    assert undone == [signal.SIG_DFL]  # a second one does not wait
    assert signal.getsignal(signal.SIGTERM) == before
    assert capfd.readouterr().err == "error: terminated; start the same command again to continue\n"


def test_a_process_that_jax_aborts_asks_to_be_started_again():
    """JAX aborts in a thread of C++, while Python waits for a device."""
    program = """
import ctypes, threading
from ddpm_jax.commands import endings
endings.leave_if_aborted()
thread = threading.Thread(target=ctypes.CDLL(None).abort)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 75, done
    assert (
        done.stderr
        == "error: aborted, most likely because another process was lost (see above): start all of them again\n"
    )

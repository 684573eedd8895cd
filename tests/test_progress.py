"""Progress bars: how often they write, and for whom."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from support.tiny import ROOT

from ddpm_jax.runtime.progress import progress_bar


class Terminal(io.StringIO):
    """A stderr at which a person looks."""

    def isatty(self):
        return True


class Kernel(io.StringIO):
    """A stderr of a notebook."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    ("stream", "seconds", "stays"), [(io.StringIO, 30, True), (Terminal, 0.1, True), (Kernel, 0.1, False)]
)
def test_a_bar_writes_ten_times_a_second_for_a_person_and_twice_a_minute_for_a_log(monkeypatch, stream, seconds, stays):
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(8, "sampling", unit="move") as bar:
        assert bar.mininterval == seconds
        assert bar.leave == stays
        assert not bar.disable
    assert "sampling" in sys.stderr.getvalue()


@pytest.mark.parametrize(("process", "written"), [(0, True), (1, False)])
def test_of_many_processes_the_first_shows_its_bar(monkeypatch, process, written):
    monkeypatch.setattr("jax.process_index", lambda: process)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(8, "sampling", unit="move") as bar:
        bar.update(8)
    assert bool(sys.stderr.getvalue()) == written


def test_what_the_caller_asks_for_stands():
    with progress_bar(8, "sampling", unit="move", mininterval=7, disable=True) as bar:
        assert bar.disable


def test_a_terminal_that_does_not_know_its_width_shows_eighty_columns():
    """As the pseudo-terminals of some launchers; the bar and its text are there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    program = (
        "import time; from ddpm_jax.runtime.progress import progress_bar\n"
        "with progress_bar(8, 'sampling', unit='step') as bar: time.sleep(0.3); bar.update(8)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=follower)
    os.close(follower)
    written = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while part := os.read(leader, 4096):
            written += part
    os.close(leader)
    assert process.wait() == 0
    assert b"sampling: 100%" in written
    assert b"8/8" in written

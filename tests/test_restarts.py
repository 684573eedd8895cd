"""Two processes, each under the loop of examples/, are killed again and again, and finish the run of two others."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from support.tiny import ROOT, arguments, tiny_config, untimed

from ddpm_jax.commands import endings
from ddpm_jax.runs.run import Run
from ddpm_jax.training.heartbeat import read_status
from ddpm_jax.training.restoring import stored_record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

DEADLOCK = 1800  # seconds; says nothing of speed

# The training program, which is killed once at every step for which there is a file PROCESS.STEP. The log has all lines
# before that step, and the save before may be incomplete.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from ddpm_jax.commands.train import command
from ddpm_jax.training.log import RunLog

process, planned, add = sys.argv[-1].partition("=")[2], Path(os.environ["PLANNED"]), RunLog.add

def add_or_end(log, step, metrics):
    add(log, step, metrics)
    plan = planned / f"{process}.{step}"
    if plan.exists():
        plan.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

RunLog.add = add_or_end
sys.argv[0] = "train.py"
command()
"""
STEPS = 16
ENDS = [(1, 3), (0, 4), (0, 7), (1, 9), (1, 12), (0, 16)]  # process and step


def finish(workdir, planned):
    """Runs both loops to their end; returns how often each has started its process again."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    config = tiny_config(train__batch_size=16, train__num_steps=STEPS, model__dropout=0.1, checkpoint__every=2)
    flags = [f"--workdir={workdir}", *arguments(config), f"--coordinator=localhost:{port}", "--num_processes=2"]
    devices = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    environment = {**os.environ, "XLA_FLAGS": devices, "PAUSE": "0", "PLANNED": str(planned)}
    loops = [
        subprocess.Popen(
            [ROOT / "examples" / "loop.sh", sys.executable, "-c", PROGRAM, *flags, f"--process_id={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    said = [loop.communicate(timeout=DEADLOCK)[1] for loop in loops]
    assert [loop.returncode for loop in loops] == [endings.DONE, endings.DONE], said
    return said


def test_two_processes_killed_again_and_again_finish_the_run_of_two_that_were_not(tmp_path):
    planned = tmp_path / "planned"
    planned.mkdir()
    assert "again" not in "".join(finish(tmp_path / "whole", planned))
    for process, step in ENDS:
        (planned / f"{process}.{step}").touch()
    said = finish(tmp_path / "killed", planned)
    assert list(planned.iterdir()) == []
    killed = [text.count(f"ended with code {128 + signal.SIGKILL}: again") for text in said]
    assert killed == [sum(process == i for process, _ in ENDS) for i in (0, 1)], said
    lost = [text.count(f"ended with code {endings.START_AGAIN}: again") for text in said]
    assert min(lost) > 0, said
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "whole")
    killed, whole = (stored_record(tmp_path / name / "checkpoints" / str(STEPS)) for name in ("killed", "whole"))
    assert killed.digests == whole.digests
    Run(tmp_path / "killed")  # raises if what is on disk is not what was saved
    assert read_status(tmp_path / "killed").state == "finished"

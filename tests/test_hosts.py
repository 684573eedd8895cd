"""Two processes on the loopback address are one program: the same run, the same images, one end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from support.tiny import ROOT, arguments, tiny_config

from ddpm_jax.commands import endings
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.runs.sampling import sample_run
from ddpm_jax.training import log
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.heartbeat import read_status
from ddpm_jax.training.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = {"train__batch_size": 16, "model__dropout": 0.1, "checkpoint__every": 2}
LONG = {**CONFIG, "train__num_steps": 100_000, "checkpoint__every": 50_000, "log__every": 2}


# The training program, whose processes give each other up after ten seconds of silence.
IMPATIENT = """
import sys
from ddpm_jax.commands import cli
from ddpm_jax.commands.train import command
cli._HEARTBEAT_SECONDS = 10
sys.argv[0] = "train.py"
command()
"""
DEADLOCK = 1200  # seconds until two processes that wait for each other are given up; says nothing of speed


def start(program, *args):
    """Two processes of a program with two devices each; the first one's output is read."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [f"--coordinator=localhost:{port}", "--num_processes=2"]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    devices = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")}
    return [
        subprocess.Popen(
            [sys.executable, program, *map(str, args), *flags, f"--process_id={i}"],
            env={**os.environ, **devices},
            **options,
        )
        for i in (0, 1)
    ]


def finish(processes, code=endings.DONE):
    outputs = [process.communicate(timeout=DEADLOCK)[0] for process in processes]
    assert [process.returncode for process in processes] == [code, code], outputs
    return outputs[0]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, quick_compilation):
    """A run trained for four steps by both."""
    workdir = tmp_path_factory.mktemp("hosts") / "run"
    output = finish(start("train.py", f"--workdir={workdir}", *arguments(tiny_config(**CONFIG, train__num_steps=4))))
    assert output.count("done: step 4") == 1
    return workdir


def losses(workdir):
    return [line["loss"] for line in log.read_log(workdir)]


@pytest.mark.slow
def test_two_processes_train_the_run_of_one(workdir, tmp_path):
    """In the same global order: the losses of the batches are those of one process on eight devices."""
    train.train(tiny_config(**CONFIG, train__num_steps=4), tmp_path)
    np.testing.assert_allclose(losses(workdir), losses(tmp_path), rtol=1e-5)


@pytest.mark.slow
def test_both_take_the_checkpoint_before_a_damaged_one(workdir, tmp_path):
    """Of a cut state one process may read the damaged part and the other not: the first checks for both."""
    damaged = shutil.copytree(workdir, tmp_path / "run")
    largest = max((damaged / "checkpoints/4/state").rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    half = slice(len(data) // 4, 3 * len(data) // 4)  # a single bit may lie in bytes that nothing refers to
    data[half] = bytes(byte ^ 64 for byte in data[half])
    largest.write_bytes(data)
    config = tiny_config(**CONFIG, train__num_steps=4, mesh__fsdp=4)
    output = finish(start("train.py", f"--workdir={damaged}", *arguments(config)))
    assert "resuming from step 2" in output
    assert output.count("is damaged (") == 1
    assert saved_steps(damaged / "checkpoints") == [4, 2]
    assert saved_steps(damaged / "damaged_checkpoints") == [4]
    assert losses(damaged) == losses(workdir)


@pytest.mark.slow
def test_one_process_goes_on_with_the_run_of_two(workdir, tmp_path):
    """Twenty steps more, on eight devices for four."""
    train.train(tiny_config(**CONFIG, train__num_steps=24), tmp_path)
    assert train.train(tiny_config(**CONFIG, train__num_steps=24), workdir).step == 24
    np.testing.assert_allclose(losses(workdir), losses(tmp_path), rtol=1e-5)


@pytest.mark.slow
def test_two_processes_draw_and_measure_what_one_does(workdir, tmp_path):
    drawn = {"num_images": 10, "seed": 0, "num_steps": 5}
    options = [f"--{name}={value}" for name, value in drawn.items()]
    out, alone = tmp_path / "both.npz", tmp_path / "alone.npz"
    finish(start("sample.py", f"--workdir={workdir}", f"--out={out}", *options))
    sample_run(Run(workdir), alone, **drawn)
    with np.load(out) as both, np.load(alone) as one:
        assert np.max(np.abs(both["arr_0"].astype(int) - one["arr_0"])) <= 1
    folder = tmp_path / "folder"
    finish(start("sample.py", f"--workdir={workdir}", f"--out={folder}/", *options))
    assert len(list(folder.glob("*.png"))) == 10
    printed = finish(start("evaluate.py", f"--workdir={workdir}", "--num_images=4"))
    (line,) = [line for line in printed.splitlines() if line.startswith("bound ")]
    result = json.loads((workdir / "evaluation" / "bpd.json").read_text())
    assert f"{result['bits_per_dim']:.4f}" in line


def wait_for_steps(workdir, processes, count=4):
    while not (workdir / "log.jsonl").exists() or len(log.read_log(workdir)) < count:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.mark.slow
def test_hosts_with_different_folders_of_one_name_are_refused_in_one_line(tmp_path):
    """The second process works in another directory, as a host with a disk of its own would."""
    program = tmp_path / "elsewhere.py"
    program.write_text(
        "import os, sys\n"
        "from ddpm_jax.commands.train import command\n"
        f"os.chdir({str(tmp_path)!r} + '/' + sys.argv[-1].rpartition('=')[2])\n"
        "sys.argv[0] = 'train.py'\n"
        "command()\n"
    )
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        processes = start(program, "--workdir=run", *arguments(tiny_config(**CONFIG, train__num_steps=4)))
        outputs = [process.communicate(timeout=DEADLOCK)[0] for process in processes]
    finally:
        del os.environ["PYTHONPATH"]
    assert [process.returncode for process in processes] == [1, 1], outputs
    for output in outputs:
        assert "run is another folder on the host of process 1 than on that of the first one: give a work" in output
        assert "Traceback" not in output
    assert not (tmp_path / "0/run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, endings.START_AGAIN), (signal.SIGINT, endings.INTERRUPTED)]
)
def test_a_signal_to_one_saves_the_same_step_of_both(tmp_path, number, code):
    processes = start("train.py", f"--workdir={tmp_path}", *arguments(tiny_config(**LONG)))
    wait_for_steps(tmp_path, processes)
    processes[1].send_signal(number)
    output = finish(processes, code)
    (step,) = saved_steps(tmp_path / "checkpoints")
    assert f"interrupted: step {step} is saved; the same command resumes from there" in output
    assert read_status(tmp_path).state == "stopped"


@pytest.mark.slow
def test_a_preview_that_the_first_cannot_write_loses_no_step_of_both(tmp_path):
    """Both hear of it at the same step, save that, and end; each says why."""
    (tmp_path / "previews").write_text("where a folder should be")
    processes = start("train.py", f"--workdir={tmp_path}", *arguments(tiny_config(**LONG, log__preview_every=3)))
    first, second = (process.communicate(timeout=DEADLOCK)[0] for process in processes)
    assert [process.returncode for process in processes] == [endings.MEND, endings.MEND], first + second
    assert read_status(tmp_path).state == "needs you"
    assert saved_steps(tmp_path / "checkpoints") == [3]
    assert "step 3 is saved; the same command resumes from there" in first
    assert f"error: cannot write {tmp_path / 'previews'}" in first
    assert "error: the first process failed; its own message says why" in second


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_ends_the_other(tmp_path, end):
    """By the heartbeat that stops, saying why, and with the code that asks for another start."""
    processes = start("-c", IMPATIENT, f"--workdir={tmp_path}", *arguments(tiny_config(**LONG)))
    wait_for_steps(tmp_path, processes)
    processes[1].send_signal(end)
    output = processes[0].communicate(timeout=DEADLOCK)[0]
    processes[1].kill()
    assert processes[0].returncode == endings.START_AGAIN, output[-2000:]
    assert re.search("the connection to the other processes|another process was lost", output), output[-2000:]
    processes[1].communicate()


@pytest.mark.slow
def test_two_processes_are_refused_together_by_the_one_that_trains(tmp_path):
    """The second does not wait until it finds the first one gone."""
    with Checkpoints(tmp_path / "run"):
        processes = start("train.py", f"--workdir={tmp_path / 'run'}", *arguments(tiny_config(**CONFIG)))
        outputs = [process.communicate(timeout=DEADLOCK)[0] for process in processes]
    assert [process.returncode for process in processes] == [endings.START_AGAIN] * 2, outputs
    assert f"error: another process is training in {tmp_path / 'run'}; wait until" in outputs[0]
    assert "error: the first process failed; its own message says why" in outputs[1]


# The training program with a loss that is infinite for an image of the batch of step 12.
FRAGILE = """
import sys
import jax.numpy as jnp
import numpy as np
from ddpm_jax.commands.train import command
from ddpm_jax.data import Digits
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.diffusion import losses
from ddpm_jax.factory import objectives

digits, (index, *_) = Digits("train"), batch_indices(1297, batch_size=16, seed=0, step=11)
wanted = np.float32(digits[int(index)]["image"] / 127.5 - 1)

def fragile(denoise, x_0, keys, transition):
    terms = losses.l_simple()(denoise, x_0, keys, transition)
    is_it = jnp.max(jnp.abs(x_0 - wanted), axis=(1, 2, 3)) < 1e-4
    return {**terms, "loss": jnp.where(is_it, jnp.inf, terms["loss"])}

objectives.LOSSES["simple"] = lambda *args: fragile
sys.argv[0] = "train.py"
command()
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_two_processes_roll_back_together(bucket, tmp_path, where):
    """To the run that was told to pass over the batches; the checkpoint of step 10 is removed and saved again."""
    changes = {**CONFIG, "train__num_steps": 14, "checkpoint__every": 5}
    back = tiny_config(**changes, train__on_divergence="rollback", train__rollback_batches=3)
    told = tiny_config(**changes, train__pass_over=(10, 11, 12))
    workdir = tmp_path / "back" if where == "disk" else f"{bucket}/back"
    output = finish(start("-c", FRAGILE, f"--workdir={workdir}", *arguments(back)))
    assert output.count("at step 12; the run returns to step 5 and passes over the batch of steps 10 to 12 (3 of") == 1
    finish(start("-c", FRAGILE, f"--workdir={tmp_path / 'told'}", *arguments(told)))
    assert Run(workdir).digest() == Run(tmp_path / "told").digest()
    assert losses(workdir) == losses(tmp_path / "told")
    assert saved_steps(f"{workdir}/checkpoints") == saved_steps(tmp_path / "told/checkpoints")


INTERLEAVED = """
import os, sys
sys.path.insert(0, os.getcwd())
import jax, numpy as np
from jax.sharding import Mesh
from ddpm_jax.commands import cli
from ddpm_jax.runtime.devices import global_batch, own_rows, to_host

def main():
    mesh = Mesh(np.array(jax.devices())[[0, 2, 1, 3]].reshape(4, 1), ("data", "fsdp"))
    rows = own_rows(mesh, 8)
    print(rows.tolist(), to_host(global_batch(mesh, 10 * rows)).tolist())

cli.run(main, module="__main__")
"""


@pytest.mark.slow
def test_rows_of_hosts_whose_devices_alternate_have_their_places(tmp_path):
    """As on a pod whose mesh follows the topology and not the hosts."""
    program = tmp_path / "interleaved.py"
    program.write_text(INTERLEAVED)
    output = finish(start(program))
    assert "[0, 1, 4, 5] [0, 10, 20, 30, 40, 50, 60, 70]" in output

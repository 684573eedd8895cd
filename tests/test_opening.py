"""The first cell of a notebook: in Jupyter started anywhere, and in Colab with a cold and with a restarted runtime.

Colab is played: a module `google.colab`, the content folder as current and first on the import path, and pip replaced
by a program that puts the wheel of these sources where packages are.
"""

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.tiny import ROOT
from test_notebooks import runner

import ddpm_jax as dj

# Run as `python -c`: argv has the wheel, the folder of packages and the first cell.
RUNTIME = """
import json, os, subprocess, sys, types, zipfile
wheel, site, cell = sys.argv[1:]
sys.path[0], calls = os.getcwd(), []
sys.path.append(site)
colab = sys.modules["google.colab"] = types.ModuleType("google.colab")
colab.output = types.ModuleType("google.colab.output")  # which JAX imports there

def pip(command, **options):
    calls.append(command[1:])
    zipfile.ZipFile(wheel).extractall(site)
    return subprocess.CompletedProcess(command, 0, "", "")

subprocess.run = pip
exec(cell)
print(json.dumps([calls, dj.__file__, str(runs), dj.experiment("celeba").name, len(dj.Digits("all"))]))
"""


def start(*command: str, cwd: Path) -> list[str]:
    """The lines that a process of Python prints; it sees neither the clone nor the smoke setting of the tests."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DDPM_JAX_SMOKE")}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_colab_installs_once_and_imports_after_a_restart(wheel, tmp_path):
    """Even where a folder of the package's name lies in the content folder, as a clone would."""
    content, site = tmp_path / "content", tmp_path / "site"
    (content / "ddpm_jax").mkdir(parents=True)
    package = f"ddpm_jax @ git+{runner.PROJECT['urls']['Repository']}@v{dj.__version__}"
    expected = [str(site / "ddpm_jax" / "__init__.py"), "runs", "celeba", 1797]
    cold = start("-c", RUNTIME, str(wheel), str(site), runner.OPENING, cwd=content)
    assert json.loads(cold[-1]) == [[["-m", "pip", "install", "-q", package]], *expected]
    assert cold[0] == f"installing {package} (a minute or two)"
    restarted = start("-c", RUNTIME, str(wheel), str(site), runner.OPENING, cwd=content)
    assert json.loads(restarted[-1]) == [[], *expected]


@pytest.mark.parametrize(("folder", "runs"), [(ROOT / "notebooks", "../runs"), (ROOT, "runs")])
def test_jupyter_takes_the_clone_of_the_notebook(folder, runs):
    """The kernel starts in `notebooks/`, some editors' in the root; nothing needs to be installed."""
    (*_, last) = start("-c", f"{runner.OPENING}\nprint(dj.__file__, runs)", cwd=folder)
    assert last == f"{ROOT / 'ddpm_jax' / '__init__.py'} {runs}"


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A fresh runtime in which pip fails: what it is asked for, and devices and words that a test may set."""
    played = SimpleNamespace(calls=[], devices=(), stderr="")

    def pip(command, *, env, **options):
        played.calls.append((command[-1], env["GIT_TERMINAL_PROMPT"]))
        return subprocess.CompletedProcess(command, 1, "", played.stderr)

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: iter(()))
    monkeypatch.setattr(os.path, "exists", lambda path: path in played.devices)
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.delenv("COLAB_TPU_1VM", raising=False)
    monkeypatch.chdir(tmp_path)
    return played


def failure(monkeypatch) -> str:
    """What the first cell says where pip fails; nothing of it is left on the import path."""
    before = list(sys.path)
    with pytest.raises(Exception, match=r"^ddpm_jax cannot be installed ") as caught:
        exec(runner.OPENING, {})
    assert sys.path == before
    assert caught.value._render_traceback_() == [f"error: {caught.value}"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("devices", "extra"),
    [((), ""), (("/dev/nvidia0",), "[cuda12]"), (("/dev/accel0",), "[tpu]"), (("/dev/vfio/0",), "[tpu]")],
)
def test_each_runtime_gets_its_jax(devices, extra, colab, monkeypatch):
    colab.devices = devices
    failure(monkeypatch)
    address = runner.PROJECT["urls"]["Repository"]
    assert colab.calls == [(f"ddpm_jax{extra} @ git+{address}@v{dj.__version__}", "0")]


def test_a_tpu_runtime_is_known_by_its_name_too(colab, monkeypatch):
    monkeypatch.setenv("COLAB_TPU_1VM", "1")
    failure(monkeypatch)
    assert colab.calls[0][0].startswith("ddpm_jax[tpu] @ ")


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "error: subprocess-exited-with-error\n   fatal: Could not resolve host: x\n",
            "fatal: Could not resolve host: x",
        ),
        ("  error: subprocess-exited\n   error: pathspec 'v9' did not match\n", "error: pathspec 'v9' did not match"),
        ("ERROR: No matching distribution found for jax\n", "ERROR: No matching distribution found for jax"),
        ("", "by pip"),
    ],
)
def test_what_cannot_be_installed_is_one_sentence_with_the_reason(stderr, reason, colab, monkeypatch):
    colab.stderr = stderr
    address = runner.PROJECT["urls"]["Repository"]
    assert failure(monkeypatch) == (
        f"ddpm_jax cannot be installed ({reason}); is there a network connection, "
        f"and does {address} have the tag v{dj.__version__}?"
    )


def test_another_version_is_replaced(colab, monkeypatch):
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: iter([SimpleNamespace(version="0.0.1")]))
    failure(monkeypatch)
    assert len(colab.calls) == 1

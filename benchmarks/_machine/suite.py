"""The tests that need the accelerator: those with the mark `gpu`."""

import os
import subprocess
import sys
from pathlib import Path

import jax

from _machine.job import Job


def measure(job: Job) -> None:
    """Adds the closing line of the test runner, and the names of what failed."""
    here = jax.default_backend()
    root = Path(__file__).parents[2]
    files = [str(file) for file in sorted((root / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-m", "gpu", "-rfs", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu" if here == "cpu" else "cuda,cpu"}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process holds the device too
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or ["nothing"]
    job.add("pytest -m gpu", result=lines[-1].strip("= "), status=done.returncode)
    for line in lines:
        if line.startswith(("FAILED", "ERROR", "SKIPPED", "E  ")):
            job.note(line[:300])

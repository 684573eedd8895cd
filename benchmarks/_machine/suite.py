"""The tests that need a GPU: those with the mark `gpu`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax

from _machine.job import Job


def measure(job: Job) -> None:
    """Adds a row for each test as it ends, and the closing line of the test runner."""
    here = jax.default_backend()
    if here not in ("cpu", "gpu"):
        job.note(f"skipped: these tests need a GPU, and this device is a {here}")
        return
    root = Path(__file__).parents[2]
    files = [str(file.relative_to(root)) for file in sorted((root / "tests").rglob("test_*.py"))
             if "mark.gpu" in file.read_text()]  # fmt: skip
    # Without pyproject's options, which need pytest-xdist.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "-m", "gpu", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu" if here == "cpu" else "cuda,cpu", "PYTHONUNBUFFERED": "1"}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process holds the device too
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    last = "it printed nothing"
    with subprocess.Popen(command, cwd=root, env=environment, **options) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            last = line.strip("= \n") or last
            if found := re.match(r"(?:\S*/)?(test_\S+::\S+) (PASSED|FAILED|SKIPPED|ERROR)", line):
                job.add(found[1], result=found[2].lower())
            elif line.startswith("E  "):
                job.note(line.strip()[:300])
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with status {process.returncode}: {last}")
    job.add("pytest -m gpu", result=last)

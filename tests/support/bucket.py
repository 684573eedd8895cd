"""A bucket for tests: the emulator in a process of its own, and the environment in which libraries find it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec.config


def use_emulator(port: int) -> str:
    """Has the libraries of this process, and of those that it starts, find the emulator there; returns its URL."""
    url = f"http://localhost:{port}"
    os.environ.update(
        STORAGE_EMULATOR_HOST=url,
        TENSORSTORE_GCS_HTTP_URL=url,
        GOOGLE_CLOUD_PROJECT="test",
        GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",
        FSSPEC_GCS_TOKEN="anon",
    )
    fsspec.config.set_conf_env(fsspec.config.conf)  # which is read when fsspec is imported
    return url


@contextlib.contextmanager
def emulated() -> Iterator[str]:
    """Starts the emulator on a free port and yields the address of its bucket, `gs://bucket`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("emulator.py"), str(port)], stderr=subprocess.DEVNULL
    )
    url = use_emulator(port)
    try:
        while True:
            assert process.poll() is None, "the emulator has ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            time.sleep(0.05)
        yield "gs://bucket"
    finally:
        process.kill()
        process.wait()

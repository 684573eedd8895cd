"""Whether a folder is the same one for all processes of a program, which may run on several hosts."""

import secrets
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax.errors import AgreedError, writing
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import agreed, by_first

_SECONDS = 10.0  # in which a network file system has to show a new file to every host


def check_shared(folder: AnyPath) -> None:
    """Checks that all processes see what the first one writes to a folder, which is made if absent.

    Raises:
      AgreedError: they do not, or it cannot be written; every process raises it.
    """
    if jax.process_count() == 1 or not isinstance(folder, Path):  # a bucket is the same everywhere
        return
    number = int(agreed(np.array(secrets.randbits(31))))
    token = folder / f".shared_{number:08x}"

    def write() -> None:
        with writing(folder):
            storage.write_bytes(token, b"")

    by_first(write)
    deadline = time.monotonic() + _SECONDS
    while not (seen := token.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = np.flatnonzero(~np.asarray(multihost_utils.process_allgather(np.array(seen))).reshape(-1))
    by_first(lambda: token.unlink(missing_ok=True))
    if len(blind):
        raise AgreedError(
            f"{folder} is another folder on the host of process {blind[0]} than on that of the first one: give a work "
            "directory that all hosts share, such as one on a network file system or in a bucket, gs://BUCKET/NAME"
        )

"""The shared memory in which workers hand batches over, released however they and the trainer end.

Grain leaves the name of such memory to the array that the trainer gets, and its removal to the end of that array. An
array that an exception still refers to when the program ends is never removed, and what a killed worker was about to
hand over belongs to nobody; the system keeps both. So the name is removed as soon as the trainer has the array, whose
memory stays as long as the array does, and what workers leave is found by the names that they give.
"""

import contextlib
import secrets
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path

from ddpm_jax.data.source import Example

_FOLDER = Path("/dev/shm")  # where Linux has it by name


def new_prefix() -> str:
    """How the names of the memory of one trainer's workers begin."""
    return f"d{secrets.token_hex(3)}"


def use_prefix(prefix: str) -> None:
    """Lets the names of what this process, a worker, makes from now on begin with `prefix`."""
    shared_memory._SHM_NAME_PREFIX = f"/{prefix}"  # pyrefly: ignore[missing-attribute]  # Grain gives no name


def without_names(stream: Iterator[Example]) -> Iterator[Example]:
    """Yields the batches of a Grain iterator with workers, after it has removed the names of their memory."""
    for batch in stream:
        for array in batch.values():
            memory = getattr(array, "shm", None)  # Grain's array; a small one is sent without shared memory
            if memory is not None:
                memory.unlink()
                setattr(array, "_unlink_on_del", False)  # noqa: B010  # Grain would do it a second time
        yield batch


def release(prefix: str) -> None:
    """Removes what workers that have ended left behind."""
    for file in _FOLDER.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            memory = shared_memory.SharedMemory(file.name)
            memory.close()
            memory.unlink()

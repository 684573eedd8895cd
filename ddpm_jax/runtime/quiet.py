"""What libraries print of their insides is kept from the user, whether a program or a notebook uses ours.

Orbax logs the traceback of everything that fails in its threads, and then raises it where it is waited for: on a full
disk three tracebacks would surround the one line that says what to do. Whoever wants to see them asks for absl's log at
the level INFO: `--verbosity=0` of a program, `absl.logging.set_verbosity("info")` in a notebook. libtpu asks the
machine where it is, and prints errors where that is no TPU, as when a step is compiled for one on a laptop. Pillow
warns of much that is odd in an image and does not matter. What the same libraries say to other code is left alone.
"""

import asyncio
import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import absl.logging

_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost"}


def quieten_libtpu(devices: Path = Path("/dev")) -> None:
    """Answers for a machine without a TPU what libtpu would ask of it; to be called before JAX looks for devices.

    Args:
      devices: the folder in which the system shows its devices; a TPU's are `accel0` or `vfio/0` and so on. `accel` and
        `vfio/vfio` are there on machines without one.
    """
    if any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*")):
        return
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)


def quieten_orbax() -> None:
    """Leaves what fails inside Orbax to the exception that it raises; for good, as its threads outlive its objects."""
    for logger in (absl.logging.get_absl_logger(), logging.getLogger("asyncio")):
        logger.addFilter(_is_not_orbax)  # once, however often it is called
    with contextlib.suppress(ImportError):  # a version without this module closes its loops in its own way
        from orbax.checkpoint._src import asyncio_utils

        asyncio_utils.asyncio = _OrbaxAsyncio("asyncio")


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Whether a record is of interest: no record of Orbax's modules, nor of a task that a coroutine of theirs was."""
    if absl.logging.get_verbosity() >= absl.logging.INFO:
        return True
    folder = _orbax_folder()
    if record.name != "asyncio":
        return not record.pathname.startswith(folder)
    return not re.search(rf"^Task .*\b(defined|running|created) at {re.escape(folder)}", record.getMessage(), re.DOTALL)


@functools.cache
def _orbax_folder() -> str:
    """The folder of Orbax's modules, with a slash at the end."""
    spec = importlib.util.find_spec("orbax.checkpoint")
    return os.path.join(next(iter(spec.submodule_search_locations)), "")


class _PatientEventLoop(asyncio.SelectorEventLoop):
    """An event loop that ends what is under way before it closes, and ignores what ends later still."""

    def close(self) -> None:
        """Waits for the tasks that are left; what they raise is of no interest any more."""
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.Handle:
        """Drops the callback of a loop that is closed: of a write whose task was cancelled nobody waits for the end.

        TensorStore calls this from threads of its own, where an exception could only be printed.
        """
        try:
            return super().call_soon_threadsafe(callback, *args, **options)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self)


class _OrbaxAsyncio(ModuleType):
    """The module `asyncio` as Orbax sees it, whose event loops are patient; everybody else's are as they were.

    Orbax closes its loop at the first array that cannot be read or written; each other one would print a traceback.
    It makes these loops in threads of its own, at any time while a run is saved, so no `with` could surround that.
    """

    new_event_loop = _PatientEventLoop

    def __getattr__(self, name: str) -> object:
        """All else is asyncio's."""
        return getattr(asyncio, name)


@contextlib.contextmanager
def unless_loaded(package: str) -> Iterator[None]:
    """Has the imports inside find a package only if it is loaded already.

    tensorboardX loads torch wherever it is installed, for seconds, to name its tensors in the types of arguments.
    """
    hidden = package not in sys.modules
    if hidden:
        sys.modules[package] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[package]


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keeps what Pillow and libtiff find odd in an image off the screen while this thread decodes it.

    `warnings.catch_warnings` would change the filters of all threads, and images are decoded in several: one that
    leaves it may undo what another one has set. So there is one filter, which applies to a thread that is in here.
    """
    _quieten_libtiff()
    if not any(entry[2] is _WhileDecoding for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=_WhileDecoding, module=r"PIL\.")
    logging.getLogger("PIL.TiffImagePlugin").addFilter(_is_not_decoding)
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1


_thread = threading.local()


def _is_not_decoding(record: logging.LogRecord | None = None) -> bool:
    """Whether this thread is outside of `quiet_pillow`."""
    return not getattr(_thread, "depth", 0)


class _AnyWhileDecoding(type):
    """Makes every category of warnings a kind of `_WhileDecoding` while this thread decodes, and none otherwise."""

    def __subclasscheck__(cls, category: type) -> bool:
        return not _is_not_decoding()


class _WhileDecoding(Warning, metaclass=_AnyWhileDecoding):
    """The category of the filter that `quiet_pillow` sets."""


@functools.cache
def _quieten_libtiff() -> None:
    """Has libtiff print nothing on stderr: what matters is raised by Pillow all the same."""
    from PIL import Image

    with contextlib.suppress(AttributeError, OSError):  # a Pillow whose libtiff cannot be reached
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)

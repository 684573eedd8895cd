"""Suppresses the internal messages of other libraries, in programs and in notebooks that use this package.

Orbax logs the traceback of every failure in its threads, and then raises the exception where the result is awaited: on
a full disk three tracebacks would surround the one line that says what to do. They are shown if absl's log has the
level INFO: `--verbosity=0` of a program, `absl.logging.set_verbosity("info")` in a notebook. libtpu queries the machine
that it runs on, and prints errors if that is not a TPU, for example when a step is compiled for a TPU on a laptop.
Of a failed upload gcsfs leaves what Python complains about later, and urllib3 warns of a bucket's answer that was cut
off. Pillow warns of many oddities of images that do not matter. Messages of these libraries to other code are
unchanged.
"""

import asyncio
import contextlib
import ctypes
import functools
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import absl.logging

_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost"}


def quieten_libtpu(devices: Path = Path("/dev")) -> None:
    """Sets what libtpu would query on a machine without a TPU; must be called before JAX looks for devices.

    Args:
      devices: the folder of the system's device files; those of a TPU are `accel0` or `vfio/0` and so on. `accel` and
        `vfio/vfio` exist on machines without a TPU too.
    """
    if any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*")):
        return
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)


def quieten_orbax() -> None:
    """Removes Orbax's log of failures, which it raises as well; permanently, as its threads outlive its objects."""
    for logger in (absl.logging.get_absl_logger(), logging.getLogger("asyncio")):
        logger.addFilter(_is_not_orbax)  # added once, even if this is called several times
    with contextlib.suppress(ImportError):  # a version without this module closes its loops differently
        from orbax.checkpoint._src import asyncio_utils

        asyncio_utils.asyncio = _OrbaxAsyncio("asyncio")  # pyrefly: ignore[bad-assignment]  # it stands for the module


def quieten_gcsfs() -> None:
    """Removes the notice that the content of a file whose upload failed cannot be closed; must be called once.

    gcsfs leaves a view of the content, and the garbage collection may come to the content first.
    """
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not (issubclass(unraisable.exc_type, BufferError) and isinstance(unraisable.object, io.BytesIO)):
            shown(unraisable)

    sys.unraisablehook = hook


def quieten_urllib3() -> None:
    """Removes the warning, with a traceback, of a bucket's answer cut off in its headers, which is asked again."""
    for module in ("connection", "connectionpool"):  # the latter in urllib3 1
        logging.getLogger(f"urllib3.{module}").addFilter(_is_not_of_cut_headers)


def _is_not_of_cut_headers(record: logging.LogRecord) -> bool:
    """Whether a log record is not urllib3's warning that it cannot parse the headers of Google's storage."""
    message = record.getMessage()
    return not (message.startswith("Failed to parse headers") and "/storage/v1/" in message)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Whether a log record comes neither from Orbax's modules nor from a task that runs one of their coroutines."""
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
    assert spec is not None, "Orbax is installed"
    assert spec.submodule_search_locations is not None, "it is a package"
    return os.path.join(next(iter(spec.submodule_search_locations)), "")


class _PatientEventLoop(asyncio.SelectorEventLoop):
    """An event loop that finishes its tasks before it closes, and ignores callbacks that come after that."""

    def close(self) -> None:
        """Waits for the remaining tasks, ignores their exceptions, and closes the loop."""
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.Handle:
        """Drops the callback if the loop is closed: nothing waits for the end of a write whose task was cancelled.

        TensorStore calls this from threads of its own, where an exception could only be printed.
        """
        try:
            return super().call_soon_threadsafe(callback, *args, **options)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self)


class _OrbaxAsyncio(ModuleType):
    """The module `asyncio` as Orbax sees it, whose event loops are patient; other code has the usual event loops.

    Orbax closes its loop at the first array that cannot be read or written; each further one would print a traceback.
    It makes these loops in threads of its own, at any time while a run is saved, so a `with` statement cannot replace
    them.
    """

    new_event_loop = _PatientEventLoop

    def __getattr__(self, name: str) -> object:
        """Every other name is that of asyncio."""
        return getattr(asyncio, name)


@contextlib.contextmanager
def unless_loaded(package: str) -> Iterator[None]:
    """Hides a package from the imports in the body of the `with` statement, unless it is loaded already.

    tensorboardX imports torch if it is installed, which takes seconds, only to use its tensors in type annotations.
    """
    hidden = package not in sys.modules
    if hidden:
        sys.modules[package] = None  # pyrefly: ignore[unsupported-operation]  # None makes an import of it fail
    try:
        yield
    finally:
        if hidden:
            del sys.modules[package]


@contextlib.contextmanager
def with_matplotlib_folder() -> Iterator[None]:
    """Lets matplotlib be imported in the body by a user without a home directory: its files go to a temporary one.

    Older versions end with an error there. The choice holds for this process and those that it starts.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / f"matplotlib_{os.getuid()}"))
    yield


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Suppresses the warnings of Pillow and libtiff while this thread decodes an image.

    `warnings.catch_warnings` would change the filters of all threads, and images are decoded in several: a thread that
    leaves it may undo what another one has set. So there is one filter, which applies only to threads in this context;
    it is put before filters that were set since.
    """
    _quieten_libtiff()
    if not warnings.filters or warnings.filters[0][2] is not _WhileDecoding:
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
    """Makes every category of warnings a subclass of `_WhileDecoding` while this thread decodes, and none otherwise."""

    def __subclasscheck__(cls, category: type) -> bool:
        return not _is_not_decoding()


class _WhileDecoding(Warning, metaclass=_AnyWhileDecoding):
    """The category of the filter that `quiet_pillow` sets."""


@functools.cache
def _quieten_libtiff() -> None:
    """Stops libtiff from printing to stderr: Pillow raises the errors that matter in any case."""
    from PIL import Image

    with contextlib.suppress(AttributeError, OSError):  # a build of Pillow whose libtiff cannot be reached
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)

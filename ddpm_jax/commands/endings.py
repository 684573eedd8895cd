"""How a program ends: the exit code, by which whatever started the program decides whether to start it again.

| code | meaning |
|---|---|
| 0 | everything is done; of a training run, its last step |
| 1 | a person must mend something: a `UserError`, a wrong flag, an error of the program |
| 75 | start the same command again: SIGTERM, a preemption, a lost process, storage that did not answer |
| 130 | Ctrl-C |

75 is EX_TEMPFAIL of sysexits.h. A shell shows a program that a signal has ended as 128 and the number of the signal,
137 after SIGKILL for example. docs/operating.md has the whole contract.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import jax

from ddpm_jax.errors import is_transient
from ddpm_jax.runtime.devices import lost_connection

DONE, MEND, START_AGAIN, INTERRUPTED = 0, 1, 75, 130
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)


def exit_code(error: BaseException) -> int:
    """The exit code of a program that an exception ends."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return START_AGAIN if is_transient(error) or lost_connection(error) else MEND


def exit_code_of_signal(number: int) -> int:
    """The exit code of a run that a signal has stopped before its last step."""
    return INTERRUPTED if number == signal.SIGINT else START_AGAIN


def leave(code: int) -> NoReturn:
    """Exits; one of many processes exits at once, because an orderly end would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def terminated_in_order() -> Iterator[None]:
    """Lets SIGTERM end the body by a `SystemExit`, so that nothing is left half written, with the code 75.

    A training run takes SIGTERM over while it takes steps, and saves the step first.
    """
    process = os.getpid()

    def handler(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        if os.getpid() != process:  # a copy of the process, which has its own parent to answer to
            os.kill(os.getpid(), number)
        os.write(2, b"error: terminated; start the same command again to continue\n")
        raise SystemExit(START_AGAIN)

    try:
        previous = signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _aborted(number: int) -> None:
    """Ends the process with the code 75, whichever thread has called `abort`."""
    os.write(2, b"error: aborted, most likely because another process was lost (see above): start all of them again\n")
    os._exit(START_AGAIN)


_handler = _Handler(_aborted)  # kept, because C does not


def leave_if_aborted() -> None:
    """Lets `abort` end this process with the code 75: JAX calls it where another process no longer answers.

    It does so in a thread of C++, where Python's own handlers of signals are never run.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, _Handler), ctypes.c_void_p
    libc.signal(signal.SIGABRT, _handler)

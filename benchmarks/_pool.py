"""Many small tasks on hostile input, in processes that may hang, crash or ask for too much memory.

A task is a function of a number. Each process is forked from this one, which must not have started JAX's backend, and
serves one task after another until one takes too long or too much; then another process takes its place.
"""

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ddpm_jax.errors import UserError, causes

GIGABYTE = 1 << 30
LONGEST_LINE = 500  # characters of an error that count as one line


class Outcome(NamedTuple):
    """The result of a task: the kind of its input, what happened, and the error's text."""

    kind: str
    result: str
    detail: str = ""


Task: TypeAlias = Callable[[int], Outcome]
"""A function from a number, which determines the hostile input, to what the library does with that input."""


def outcome_of(kind: str, action: Callable[[], str | None]) -> Outcome:
    """The outcome of an action on hostile input: its return value ("loads" for None), a one-line error, or a traceback.

    The result is "over 1 GB" if the peak memory of the process grows by more than that.
    """
    before = _peak()
    try:
        outcome = Outcome(kind, action() or "loads")
    except UserError as error:
        line = str(error)
        short = len(line) <= LONGEST_LINE and "\n" not in line
        outcome = Outcome(kind, "one-line error" if short else "traceback", line)
        if _of_memory(error):
            outcome = outcome._replace(result="over 1 GB")
    except Exception as error:
        outcome = Outcome(kind, "over 1 GB" if _of_memory(error) else "traceback", f"{type(error).__name__}: {error}")
    return outcome._replace(result="over 1 GB") if _peak() - before > GIGABYTE else outcome


def outcomes(task: Task, count: int, *, workers: int, seconds: float) -> Iterator[tuple[int, Outcome]]:
    """Runs `task(0)` ... `task(count - 1)`, each for at most `seconds`, and yields the number and outcome of each."""
    waiting, busy, idle = list(range(count))[::-1], {}, [_Worker(task) for _ in range(workers)]
    try:
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                worker.start(waiting.pop())
                busy[worker.pipe] = worker
            for pipe in wait(list(busy), timeout=0.5):
                worker = busy.pop(pipe)
                outcome = worker.result()
                idle.append(worker if outcome.result not in ("over 1 GB", "crash") else worker.replaced())
                yield worker.number, outcome
            for pipe, worker in list(busy.items()):
                if time.monotonic() - worker.begin > seconds:
                    del busy[pipe]
                    idle.append(worker.replaced())
                    yield worker.number, Outcome("", "hang", f"longer than {seconds:.0f} s")
    finally:
        for worker in [*idle, *busy.values()]:
            worker.kill()


class _Worker:
    """A process that serves tasks."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=_serve, args=(task, theirs))
        self._process.start()
        theirs.close()

    def start(self, number: int) -> None:
        """Sends the number of a task to the process."""
        self.number, self.begin = number, time.monotonic()
        self.pipe.send(number)

    def result(self) -> Outcome:
        """The outcome of the task, once there is something to receive."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return Outcome("", "crash", f"the process ended with status {self._process.exitcode}")

    def replaced(self) -> "_Worker":
        """Another process in place of this one."""
        self.kill()
        return _Worker(self._task)

    def kill(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(task: Task, pipe: Connection) -> None:
    """Does the tasks that a worker process receives, without output and with at most 3 GiB of additional memory."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 3 * GIGABYTE,) * 2)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            pipe.send(task(pipe.recv()))
    os._exit(0)


def _peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _of_memory(error: BaseException | None) -> bool:
    """Whether an error came from an allocation that failed."""
    return any(isinstance(cause, MemoryError) or "allocate memory" in str(cause) for cause in causes(error))

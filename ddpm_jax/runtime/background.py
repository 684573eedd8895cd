"""Work in a thread of which only the newest matters: a status or a log that is written again and again."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Newest:
    """Runs functions one after another in a thread; of those that wait there, only the newest is run.

    Only one thread calls the methods.

    Args:
      name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._pool, self._lock = ThreadPoolExecutor(1, name), threading.Lock()
        self._waiting: Callable[[], object] | None = None
        self._running: Future[None] | None = None
        self._error: Exception | None = None

    def run(self, function: Callable[[], object]) -> None:
        """Lets the thread run a function soon, in place of one that waits there; returns at once."""
        with self._lock:
            self._waiting = function
            if self._running is None:
                self._running = self._pool.submit(self._run_all)

    def wait(self) -> None:
        """Waits until nothing is left to run; raises the first error of a function since the last call."""
        running = self._running
        if running is not None:
            running.result()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run_all(self) -> None:
        """Runs what waits, until nothing does."""
        while True:
            with self._lock:
                function, self._waiting = self._waiting, None
                if function is None:
                    self._running = None
                    return
            try:
                function()
            except Exception as error:
                self._error = self._error or error

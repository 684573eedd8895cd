"""A bucket on the loopback address, served by a process of its own, whose requests go wrong as a schedule says.

The faults are those of the wire, so all three libraries that a run uses (gcsfs, google-cloud-storage and TensorStore)
meet them and do what they do of themselves; only their pauses between two tries are shortened. An object appears whole
or not at all, as in the real service: a write that is cut off in the middle leaves what was there before, and what is
left in part is a checkpoint, which consists of many objects.
"""

import asyncio
import contextlib
import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gcp_storage_emulator import server

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support import emulator
from support.bucket import use_emulator

_CONTROL = "/faults"
_QUICKER = 200  # by which the pauses of the libraries between two tries are divided
_SHORT, _OUTAGE = 3, 40  # requests: a fault that the libraries outlast by trying again, and one that they do not
_SECONDS = 0.4  # the longest delay of an answer


class Fault(NamedTuple):
    """What happens to some successive requests.

    Attributes:
      kind: one of `KINDS`.
      first: the number of the first of these requests, counted from the beginning of the schedule.
      count: how many they are.
    """

    kind: str
    first: int
    count: int


class Faults:
    """The faults that are to come, and the number of those that came, by their kinds; what a thread changes is locked.

    Attributes:
      came: how many requests went wrong, by kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Fault] = []
        self._number, self._paused = 0, True
        self.came: Counter[str] = Counter()

    def plan(self, faults: list[Fault]) -> None:
        """Starts to count the requests, of which these will go wrong."""
        with self._lock:
            self._planned, self._number, self._paused, self.came = faults, 0, False, Counter()

    def told(self, what: Any) -> dict[str, Any]:
        """Does what a `Control` asks for; returns what is known."""
        if isinstance(what, list):
            self.plan([Fault(*fault) for fault in what])
        elif what != "show":
            self._paused = what == "pause"
        return {"came": self.came, "requests": self._number}

    def next(self) -> str:
        """The kind of fault of the next request; "" for none."""
        with self._lock:
            if self._paused:
                return ""
            self._number += 1
            found = (fault.kind for fault in self._planned if 0 <= self._number - fault.first < fault.count)
            return next(found, "")

    def count(self, kind: str) -> None:
        """Counts a fault that has come."""
        with self._lock:
            self.came[kind] += 1

    @property
    def number(self) -> int:
        """The number of requests so far."""
        return self._number


def drawn(rng: np.random.Generator, requests: int) -> list[Fault]:
    """Between one and six faults of a run that makes about so many requests."""
    faults = []
    for _ in range(rng.integers(1, 7)):
        kind = str(rng.choice(list(KINDS)))
        count = int(rng.integers(1, _SHORT + 1) if rng.random() < 0.5 else rng.integers(_SHORT + 1, _OUTAGE))
        faults.append(Fault(kind, int(rng.integers(requests)), count))
    return faults


class FaultyHandler(emulator.Handler):
    """Handles a request as the emulator does, or wrongly if `faults` say so."""

    faults = Faults()
    earlier: ClassVar[dict[str, Any]] = {}  # the objects of the bucket as a listing that lags shows them

    def _answer(self, method: str) -> None:
        if self.path == _CONTROL:
            self._send(HTTPStatus.OK, self.faults.told(json.loads(self.rfile.read(self._length()))))
            return
        kind = self.faults.next()
        if not kind or not KINDS[kind](self, method):
            self._remember()
            super()._answer(method)
        else:
            self.faults.count(kind)

    def _remember(self) -> None:
        """Takes the present objects for what later listings show that lag."""
        if not self.faults.number % 8:
            with emulator._ONE_AT_A_TIME:
                FaultyHandler.earlier = dict(self.storage.objects.get("bucket", {}))

    def _refused(self, status: HTTPStatus) -> bool:
        """Answers with a status instead of doing what is asked."""
        self.rfile.read(self._length())
        self._send(status, {"error": {"code": status.value, "message": status.phrase}})
        return True

    def _send(self, status: HTTPStatus, what: Any) -> None:
        """Answers with a status and JSON."""
        content = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _delayed(self, method: str) -> bool:
        """Answers late."""
        time.sleep(_SECONDS * np.random.default_rng(self.faults.number).random())
        super()._answer(method)
        return True

    def _cut_write(self, method: str) -> bool:
        """Closes the connection in the middle of what is to be written."""
        if method not in (server.POST, server.PUT) or not self._length():
            return False
        self.rfile.read(self._length() // 2)
        raise ConnectionResetError

    def _cut_read(self, method: str) -> bool:
        """Closes the connection in the middle of an answer."""
        if method != server.GET:
            return False
        answer = self._computed(method)
        self.wfile.write(answer[: -(len(answer) // 4)])
        raise ConnectionResetError

    def _unanswered(self, method: str) -> bool:
        """Does what is asked and closes the connection instead of saying so."""
        self._computed(method)
        raise ConnectionResetError

    def _lagging(self, method: str) -> bool:
        """Lists the objects of some time ago."""
        if method != server.GET or not self.path.partition("?")[0].endswith("/b/bucket/o"):
            return False
        objects = self.storage.objects
        with emulator._ONE_AT_A_TIME:
            present, objects["bucket"] = objects.get("bucket", {}), self.earlier
            try:
                answer = self._handled(method)
            finally:
                objects["bucket"] = present
        self.wfile.write(answer)
        return True

    def _computed(self, method: str) -> bytes:
        """Does what is asked; returns the answer."""
        with emulator._ONE_AT_A_TIME:
            return self._handled(method)

    def _handled(self, method: str) -> bytes:
        """Does what is asked, while no other request is handled; returns the answer."""
        socket_in, socket_out = self.rfile, self.wfile
        self.rfile, self.wfile = io.BytesIO(self.rfile.read(self._length())), io.BytesIO()
        try:
            server.Router(self).handle(method)
            return self.wfile.getvalue()
        finally:
            self.rfile, self.wfile = socket_in, socket_out

    def _length(self) -> int:
        """The length of the request's content in bytes."""
        return int(self.headers.get("Content-Length") or 0)


def _lost(handle: Callable[[FaultyHandler, str], bool]) -> Callable[[FaultyHandler, str], bool]:
    """A handler that closes the connection where `handle` raises, and counts that as done."""

    def closing(self: FaultyHandler, method: str) -> bool:
        try:
            return handle(self, method)
        except ConnectionResetError:
            self.close_connection = True
            return True

    return closing


KINDS: dict[str, Callable[[FaultyHandler, str], bool]] = {
    "unavailable": lambda handler, method: handler._refused(HTTPStatus.SERVICE_UNAVAILABLE),
    "server error": lambda handler, method: handler._refused(HTTPStatus.INTERNAL_SERVER_ERROR),
    "too many": lambda handler, method: handler._refused(HTTPStatus.TOO_MANY_REQUESTS),
    "permission": lambda handler, method: handler._refused(HTTPStatus.FORBIDDEN),
    "delay": FaultyHandler._delayed,
    "cut write": _lost(FaultyHandler._cut_write),
    "cut read": _lost(FaultyHandler._cut_read),
    "no answer": _lost(FaultyHandler._unanswered),
    "lagging list": FaultyHandler._lagging,
}
"""What a request of each kind of fault does; False where that kind does not apply to the request."""


class Control:
    """The faults of a bucket that another process serves."""

    def __init__(self, url: str) -> None:
        self._url = url

    def plan(self, faults: list[Fault]) -> None:
        """Starts to count the requests, of which these will go wrong."""
        self._ask(faults)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither counts requests nor lets them go wrong during the `with` statement."""
        self._ask("pause")
        try:
            yield
        finally:
            self._ask("go on")

    def came(self) -> dict[str, int]:
        """How many requests went wrong, by kind."""
        return self._ask("show")["came"]

    def requests(self) -> int:
        """The number of requests so far."""
        return self._ask("show")["requests"]

    def _ask(self, what: Any) -> Any:
        """Sends what is to be done with the faults; returns what is known of them."""
        request = urllib.request.Request(f"{self._url}{_CONTROL}", json.dumps(what).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def faulty_bucket() -> Iterator[tuple[str, Control]]:
    """Serves a bucket in a process during the `with` statement; yields its address and the control of its faults."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, str(port)])
    try:
        url = use_emulator(port)
        _hurry()
        while process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            time.sleep(0.05)
        yield "gs://bucket", Control(url)
    finally:
        process.kill()
        process.wait()


def _hurry() -> None:
    """Shortens the pauses of the three libraries between two tries."""
    import gcsfs.retry  # not before: it reads the environment while it is imported
    from google.api_core.retry import retry_unary
    from orbax.checkpoint._src.serialization import tensorstore_utils

    async def short_pause(seconds: float) -> None:
        await asyncio.sleep(seconds / _QUICKER)

    setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=short_pause))  # noqa: B010
    quicker = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(seconds / _QUICKER)})
    setattr(retry_unary, "time", quicker)  # noqa: B010
    delays: dict[str, Any] = {"initial_delay": f"{1000 // _QUICKER}ms", "max_delay": f"{32_000 // _QUICKER}ms"}
    for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
        changed: dict[str, Any] = context
        changed["gcs_request_retries"] = {"max_retries": 32, **delays}


def main(port: int) -> None:
    """Serves until the process is ended."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # it logs every object that is not there
    with emulator.server_at(port, FaultyHandler) as httpd:
        httpd.request_queue_size = 128
        httpd.socket.listen(128)
        httpd.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""One writer of a run in a bucket: an object that its holder renews, and that another process may take over.

Nothing in a bucket ends with the process that wrote it, as a lock on a disk does. So the holder writes a *beat* into
the object every ten seconds, and a process that has seen the same generation of it for three beats, by its own
monotonic clock, takes it over: clocks of hosts are never compared. Every write names the generation that it replaces,
so of two writers one fails, and a holder that was paused and wakes up learns from its next write that it holds
nothing. What readers may see is part of the same object and changed by the same writes (`Lease.update`): whatever a
paused holder still does to other objects, nobody looks at it.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from ddpm_jax.errors import BusyError, TransientError, UserError, first_line
from ddpm_jax.runtime.conditional import ChangedError, read_versioned, remove_if, write_if

BEAT = 10.0
"""Seconds between two renewals."""
MISSED = 3
"""Beats after which a silent holder has lost the lease."""
_BEAT_LASTS = 8.0  # seconds for which one beat is tried: a request that hangs must not cost the next ones

Content = dict[str, Any]
"""What the object holds: the keys of the lease itself, and what `Lease.update` changes."""


class LostError(TransientError):
    """This process no longer holds the lease: another one has taken it over, or its object was removed."""


class Lease:
    """The lease of an object, held from its construction to `close`; a thread renews it.

    Args:
      path: the object.
      what: what is held, for messages: "gs://bucket/run".
      first: function from what the object holds, {} if it is absent, to what it is to hold besides; it raises a
        `ValueError` if that is not what it should be; then nothing is written.
      now: whether a holder that may still be alive is replaced without waiting, because another lease excludes it.

    Raises:
      BusyError: another process holds it.
      UserError: the object is not what a lease writes.
      OSError: the bucket cannot be reached.

    Attributes:
      term: the number of this holder: 1 for the first, and one more than that of the holder before. `update` may raise
        it.
    """

    def __init__(
        self,
        path: epath.Path,
        *,
        what: str,
        first: Callable[[Content], Content] = lambda before: before,
        now: bool = False,
    ) -> None:
        self._path, self._what, self._token = path, what, secrets.token_hex(8)
        self._lost = ""  # why
        before, generation = self._await_free(now=now)
        self._new, term = generation == 0, int(before.get("term", 0)) + 1
        try:
            content = first(before)
        except ValueError as error:
            raise self._damaged(error) from error
        mine: Content = {"holder": _this_process(), "token": self._token, "beat": 0, "term": term}
        self._content: Content = {**content, **mine}
        try:
            self._generation = write_if(path, _packed(self._content), generation)
        except ChangedError as error:
            found, self._generation = self._read()
            if found.get("token") != self._token:  # else the answer to the write was lost, and it was sent again
                raise self._taken(found) from error
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def term(self) -> int:
        """The number of this holder."""
        return self._content["term"]

    @property
    def content(self) -> Content:
        """What this holder wrote last."""
        return dict(self._content)

    def check(self) -> None:
        """Raises a `LostError` if this process is known to hold the lease no longer."""
        if self._lost:
            raise LostError(self._lost)

    def update(self, change: Callable[[Content], Content], *, seconds: float = 60.0) -> None:
        """Writes the content that `change` makes of the present one, if this process still holds the lease.

        Args:
          change: function of the present content.
          seconds: for how long a write, and a reading after it, is tried.

        Raises:
          LostError: this process no longer holds the lease; nothing was written.
          UserError: the object is not what a lease writes.
          OSError: the bucket cannot be reached, and it is not known whether it was written.
        """
        with self._lock:
            while True:
                self.check()
                content = {**change(self.content), "beat": self._content["beat"] + 1}
                try:
                    self._generation = write_if(self._path, _packed(content), self._generation, seconds=seconds)
                except ChangedError:
                    found, generation = self._read(seconds)
                    if found.get("token") == self._token:  # the answer to an earlier write was lost: go on from there
                        self._content, self._generation = found, generation
                    else:
                        self._lost = self._why_lost(generation)
                else:
                    self._content = content
                    return

    def close(self, *, remove: bool = False) -> None:
        """Ends the renewal and releases the lease; if the bucket cannot be reached, the next process waits three beats.

        Args:
          remove: whether the object is removed if this holder made it.
        """
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(UserError, OSError):
            if self._new and remove:
                remove_if(self._path, self._generation)
            else:
                self.update(lambda content: {**content, "holder": None}, seconds=_BEAT_LASTS)

    def _renew(self) -> None:
        """Writes a beat from time to time; a bucket that does not answer is asked again at the next beat."""
        while not self._lost and not self._stop.wait(BEAT):
            with contextlib.suppress(UserError, OSError):
                self.update(lambda content: content, seconds=_BEAT_LASTS)

    def _await_free(self, *, now: bool) -> tuple[Content, int]:
        """Returns the content and the generation of an object that nobody holds, after waiting for a silent holder."""
        content, generation = self._read()
        if now or not content.get("holder") or _has_ended(content["holder"]):
            return content, generation
        deadline = time.monotonic() + MISSED * BEAT
        print(f"note: {_described(content['holder'])} may be training in {self._what}: waiting {MISSED * BEAT:.0f} "
              "seconds for a sign of it", flush=True)  # fmt: skip
        while time.monotonic() < deadline:
            time.sleep(BEAT / 4)
            seen, present = self._read()
            if not seen.get("holder"):
                return seen, present
            if present != generation:
                raise self._taken(seen)
        return content, generation

    def _read(self, seconds: float = 60.0) -> tuple[Content, int]:
        """The object and its generation."""
        packed, generation = read_versioned(self._path, seconds=seconds)
        try:
            content = json.loads(packed) if packed else {}
            if not isinstance(content, dict):
                raise ValueError("it is not an object")
        except ValueError as error:
            raise self._damaged(error) from error
        return content, generation

    def _why_lost(self, generation: int) -> str:
        """Why this process no longer holds the lease, where the object has this generation."""
        if generation == 0:
            return (
                f"{self._path} was removed while this process trained: restore it from a copy or an older version of "
                "the object, and start again"
            )
        return (
            f"another process has taken over the run in {self._what}, because this one did not answer for "
            f"{MISSED * BEAT:.0f} seconds: what it saved before stays, and only the other one goes on"
        )

    def _damaged(self, error: ValueError) -> UserError:
        """The error that the object is not what a lease writes."""
        return UserError(
            f"{self._path} is damaged ({first_line(error)}): restore it from a copy or an older version of the "
            "object, or choose another workdir"
        )

    def _taken(self, content: Content) -> BusyError:
        """The error that somebody else holds the lease."""
        return BusyError(
            f"another process ({_described(content.get('holder'))}) is training in {self._what}; wait until it ends, "
            "or choose another workdir"
        )


def _packed(content: Content) -> bytes:
    """The content as the bytes of the object."""
    return json.dumps(content, sort_keys=True, indent=1).encode()


def _this_process() -> dict[str, Any]:
    """What identifies this process among all of all hosts."""
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "start": _start_of(os.getpid())}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this host and boot that is known to have ended."""
    if holder.get("boot") != _boot() or not _boot() or holder.get("host") != socket.gethostname():
        return False
    return _start_of(int(holder["pid"])) != holder.get("start")


def _boot() -> str:
    """What identifies this start of the system, "" where it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # in another container the same number is another process
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process of this host started, in ticks since the system did; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _described(holder: dict[str, Any] | None) -> str:
    """A holder in words."""
    return f"process {holder.get('pid')} on {holder.get('host')}" if holder else "of another host"

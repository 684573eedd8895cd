"""The lines of a run's log in files: one file that grows on a disk, parts that are written whole in a bucket.

On a disk the log is `WORKDIR/log.jsonl`. An object of a bucket cannot grow, and a process that was replaced by another
one may still write its own: so each start of a run writes its lines to parts of its own,
`WORKDIR/log/TERM-START-STEP-PART.jsonl`. STEP is the step from which it started, and what earlier starts have after
that step does not count; START counts the starts of one process, which returns to an earlier step if the run rolls
back.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from etils import epath

from ddpm_jax.runtime import storage
from ddpm_jax.runtime.background import Newest
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.training.sinks import LogLine, Sink, Start

_PART = re.compile(r"(\d+-\d+)-(\d+)-\d+\.jsonl")
_SECONDS = 5.0  # between two writes of an object, which takes a tenth of a second
_LINES = 256  # of a part


class LogFile(Sink):
    """The record of a run: every step is in it once, because lines after the step of a start are removed."""

    _lines: "_Lines"

    def start(self, start: Start) -> None:
        """Opens the log; raises an `OSError` if it cannot be written."""
        if isinstance(start.workdir, Path):
            self._lines = _File(start.workdir, start.step)
        else:
            self._lines = _Parts(start.workdir / "log", start.step, start.term)

    def line(self, line: LogLine) -> None:
        """Adds a line; it is stored at the latest by `store`."""
        self._lines.add(line)

    def store(self) -> None:
        """Stores all lines that were added; raises an `OSError` if that is impossible."""
        self._lines.store()


def stored_lines(workdir: AnyPath) -> Iterator[tuple[str, LogLine]]:
    """Yields the text and the content of every line of a run's log, oldest first; foreign lines are skipped.

    Raises:
      OSError: it cannot be read.
    """
    parts = [(found, name) for name in storage.names(workdir / "log") if (found := _PART.fullmatch(name))]
    starts = {found[1]: int(found[2]) for found, _ in parts}
    files = [("", workdir / "log.jsonl"), *((found[1], workdir / "log" / name) for found, name in parts)]
    for start, path in files:
        last = min((step for later, step in starts.items() if later > start), default=None)
        with contextlib.suppress(FileNotFoundError):
            for text, line in _lines(storage.read_text(path, errors="replace")):
                if last is None or line["step"] <= last:
                    yield text, line


def _lines(text: str) -> Iterator[tuple[str, LogLine]]:
    """Yields the text and the content of every complete line of a log."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("step"), int):
                yield line, content


class _Lines(Protocol):
    """A log that is open for writing."""

    def add(self, line: LogLine) -> None:
        """Adds a line."""
        ...

    def store(self) -> None:
        """Stores what was added."""
        ...


class _File:
    """The log on a disk, to which lines are appended."""

    def __init__(self, workdir: Path, start_step: int) -> None:
        self._path = workdir / "log.jsonl"
        parts = workdir / "log"
        if self._path.exists() or parts.is_dir():  # a killed run may have logged more than it saved, or half a line
            kept = (text for text, line in stored_lines(workdir) if line["step"] <= start_step)
            storage.write_bytes(self._path, _joined(kept))
        for name in storage.names(parts):  # of a run that was copied from a bucket
            if _PART.fullmatch(name):
                (parts / name).unlink()

    def add(self, line: LogLine) -> None:
        """Appends a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def store(self) -> None:
        """Nothing is left to store."""


class _Parts:
    """The log in a bucket, of which the last part is written again with every few lines."""

    def __init__(self, folder: epath.Path, start_step: int, term: int) -> None:
        earlier = [name for name in storage.names(folder) if name.startswith(f"{term:06d}-")]
        start = int(earlier[-1].split("-")[1]) + 1 if earlier else 1
        self._folder, self._prefix = folder, f"{term:06d}-{start:04d}-{start_step:010d}"
        self._part, self._texts, self._unstored, self._last_time = 0, list[str](), False, float("-inf")
        self._later = Newest("log")

    def add(self, line: LogLine) -> None:
        """Adds a line, and stores the part, unless that was done in the last seconds, in a thread."""
        self._texts.append(json.dumps(line))
        self._unstored = True
        if len(self._texts) == _LINES:
            self.store()
            self._part, self._texts = self._part + 1, []
        elif time.monotonic() - self._last_time > _SECONDS:
            self._last_time = time.monotonic()
            self._later.run(partial(self._write, list(self._texts)))

    def store(self) -> None:
        """Writes the part, after what the thread writes."""
        self._later.wait()
        if self._unstored:
            self._write(self._texts)
            self._unstored, self._last_time = False, time.monotonic()

    def _write(self, texts: list[str]) -> None:
        """Writes the present part with these lines."""
        storage.write_bytes(self._folder / f"{self._prefix}-{self._part:06d}.jsonl", _joined(texts))


def _joined(texts: Iterable[str]) -> bytes:
    """Lines as the content of a file."""
    return "".join(f"{text}\n" for text in texts).encode()

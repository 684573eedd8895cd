"""A sink that sends the log of a run to an experiment tracker: Weights & Biases, or MLflow.

A run has one run of the tracker, whose id is kept in `WORKDIR/trackers.json`, so that a run which is resumed continues
there. Where the data goes, and with which account, is set as everywhere else with these services: by their environment
variables or their `login`. Read next: `wandb_client.py`, `mlflow_client.py`.
"""

import concurrent.futures
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ddpm_jax.errors import UserError, first_line
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.training.sinks import LogLine, Sink, Start

_SECONDS = 60.0  # for which the end of a run waits for a tracker


class Client(Protocol):
    """What a tracker offers, in the form in which `Tracker` calls it."""

    name: str
    """The name of the tracker, as in `config.log.sinks`."""

    def open(self, start: Start, run_id: str | None) -> tuple[str, int]:
        """Opens the run with this id, or a new one; returns its id and the last step that the tracker has of it."""
        ...

    def numbers(self, step: int, numbers: Mapping[str, float]) -> object:
        """Sends the numbers of a step by name."""
        ...

    def picture(self, step: int, name: str, image: np.ndarray) -> object:
        """Sends a picture `[H, W, C]` uint8."""
        ...

    def close(self, error: BaseException | None, done: bool) -> object:
        """Ends the run, which an exception ended or None; `done` is whether its last step was taken."""
        ...


class Tracker(Sink):
    """Sends the log to a tracker from a thread, so that a tracker which does not answer stops no step.

    What it has already is not sent again: its steps increase, although a resumed run takes some of them a second time,
    bit for bit. Only a roll-back that passes over several batches replaces steps by others; the tracker then keeps the
    lines of the discarded ones, up to the step from which the run was rolled back.

    A tracker that cannot be reached when a new run starts is a `UserError`; later it is a warning, since the run and
    its own log do not depend on it, and the lines that it missed are not sent later.

    Args:
      client: the tracker's `Client`.
    """

    def __init__(self, client: Client) -> None:
        self._client, self._sent, self._warned = client, 0, False
        self._step, self._num_steps = 0, 0
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._pending: list[concurrent.futures.Future[object]] = []

    def start(self, start: Start) -> None:
        """Opens the tracker's run; raises a `UserError` if that is impossible and the run is new."""
        known, name = _stored(start.workdir), self._client.name
        self._thread, self._pending, self._warned = None, [], False
        self._step, self._num_steps = start.step, start.config["train"]["num_steps"]
        try:
            run_id, sent = self._client.open(start, known.get(name))
            if known.get(name) != run_id:
                storage.write_bytes(_file(start.workdir), json.dumps({**known, name: run_id}).encode())
        except Exception as error:
            if name not in known:
                raise UserError(
                    f"cannot start a run in {name}: {first_line(error)}; correct its settings, or leave it out of "
                    "config.log.sinks"
                ) from error
            self._warn(f"cannot continue the run in {name}, which gets nothing until the next start", error)
            return
        self._sent = max(self._sent, sent)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)

    def line(self, line: LogLine) -> None:
        """Sends a line, unless the tracker has one of its step or a later one."""
        step = self._step = line["step"]
        if step > self._sent:
            self._sent = step
            self._send(self._client.numbers, step, {name: value for name, value in line.items() if name != "step"})

    def picture(self, name: str, image: np.ndarray, *, step: int) -> None:
        """Sends a picture `[H, W, C]` uint8, unless the tracker has a line of a later step."""
        if step >= self._sent:
            self._send(self._client.picture, step, name, image)

    def end(self, error: BaseException | None) -> None:
        """Waits up to a minute until everything is sent, and ends the tracker's run."""
        self._send(self._client.close, error, self._step >= self._num_steps)
        if self._thread:
            late = concurrent.futures.wait(self._pending, timeout=_SECONDS).not_done
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
            if late:
                self._warn(f"{self._client.name} did not take the end of the log", TimeoutError("no answer"))
        self._check()

    def _send(self, call: Callable[..., object], *arguments: object) -> None:
        """Makes a call of the client in the thread, after those before it."""
        if self._thread:
            self._check()
            self._pending.append(self._thread.submit(call, *arguments))

    def _check(self) -> None:
        """Warns once of the calls that failed."""
        done = [future for future in self._pending if future.done() and not future.cancelled()]
        self._pending = [future for future in self._pending if not future.done()]
        failed = [error for future in done if (error := future.exception())]
        if failed:
            self._warn(f"a line or a picture could not be sent to {self._client.name}", failed[0])

    def _warn(self, what: str, error: BaseException) -> None:
        """Prints a warning, the first of a start alone."""
        if not self._warned:
            self._warned = True
            print(f"warning: {what}: {first_line(error)}", file=sys.stderr, flush=True)


def _file(workdir: AnyPath) -> AnyPath:
    """The file with the id of a run in each tracker."""
    return workdir / "trackers.json"


def _stored(workdir: AnyPath) -> dict[str, str]:
    """The ids of a run by tracker; {} if it has none, or if the file was damaged.

    Raises:
      OSError: it exists and cannot be read.
    """
    try:
        content: Any = json.loads(storage.read_bytes(_file(workdir)))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: run_id for name, run_id in content.items() if isinstance(run_id, str)}

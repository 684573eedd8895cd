"""A trace of chosen steps of a run: what the host and the devices did when, for a viewer of profiles."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.training.sinks import Sink, Start


class TracedSteps(Sink):
    """Writes a trace of some steps to `WORKDIR/profile`: a hook, and a sink, as which it learns where a run starts.

    The first process traces what it sees: its host and its devices. Tracing changes nothing of the run. If the run
    ends or returns to a checkpoint before the last of these steps, the trace ends with it.

    Args:
      first: the first of the steps, counted from 1.
      last: the last of them.

    Raises:
      UserError: they are not the numbers of steps.
    """

    def __init__(self, first: int, last: int) -> None:
        if not 1 <= first <= last:
            raise UserError(f"steps {first} to {last} cannot be traced: give the first and the last, from 1")
        self._first, self._last = first, last
        self._folder: AnyPath | None = None  # of the run
        self._traced: Path | None = None  # where the trace is being written
        self._step: jax.profiler.StepTraceAnnotation | None = None
        self._done = False

    def start(self, start: Start) -> None:
        """Begins the trace if the first step is the next one.

        Raises:
          UserError: the run has passed the first step before it was started, or it ends before the last one.
        """
        num_steps = start.config["train"]["num_steps"]
        if self._folder is None and not start.step < self._first <= self._last <= num_steps:
            left = f"choose from steps {start.step + 1} to {num_steps}"
            raise UserError(f"steps {self._first} to {self._last} cannot be traced: {left}")
        self._folder = start.workdir / "profile"
        self._between(start.step)

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        """Begins or ends the trace after a step, once the devices have computed it."""
        if not is_first() or self._done or not self._first - 1 <= step <= self._last:
            return
        jax.block_until_ready(state)
        self._between(step)

    def end(self, error: BaseException | None) -> None:
        """Ends the trace, if it has not ended."""
        self._stop()

    def _between(self, step: int) -> None:
        """Takes the moment between a step and the next one."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        if step == self._first - 1 and not self._done:
            self._traced = Path(tempfile.mkdtemp(prefix="profile_"))
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each call of a function of Python would take most of the file
            jax.profiler.start_trace(self._traced, create_perfetto_trace=True, profiler_options=options)
        if self._traced is not None and step < self._last:
            self._step = jax.profiler.StepTraceAnnotation("train", step_num=step + 1)
            self._step.__enter__()
        elif self._traced is not None:
            self._stop()

    def _stop(self) -> None:
        """Ends the trace and stores its files, if there is one."""
        if self._traced is None:
            return
        traced, self._traced, self._done = self._traced, None, True
        jax.profiler.stop_trace()
        assert self._folder is not None, "a trace begins after the start"
        for file in sorted(traced.rglob("*")):
            if file.is_file():
                storage.write_bytes(
                    self._folder / f"steps_{self._first}_to_{self._last}" / file.relative_to(traced), file.read_bytes()
                )
        shutil.rmtree(traced, ignore_errors=True)
        print(f"the trace of steps {self._first} to {self._last} is in {self._folder}", file=sys.stderr, flush=True)

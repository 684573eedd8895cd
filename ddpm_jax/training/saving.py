"""When a run is saved: at intervals of steps and of minutes, at its end, and before an error ends it.

Read next: `checkpoint.py`.
"""

import contextlib
import sys
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import optax

from ddpm_jax.errors import AgreedError, UserError, first_line
from ddpm_jax.runtime.devices import agreed, by_first, is_first
from ddpm_jax.runtime.lease import LostError
from ddpm_jax.runtime.progress import waiting
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.log import DivergedError, RunLog
from ddpm_jax.training.state import TrainState

_norm = jax.jit(optax.tree.norm)


class Intervals(NamedTuple):
    """When a run is saved.

    Attributes:
      steps: number of steps between two saves.
      minutes: number of minutes after which it is saved too; 0 for never.
      agree_every: at multiples of this number of steps several processes agree on the time.
    """

    steps: int
    minutes: float = 0.0
    agree_every: int = 1


class Saves:
    """The saves of one run; a context manager that saves the last complete step when its block ends with an error.

    If that is impossible, because the failed step consumed its state or the other processes are still in the next
    step, it prints since which step nothing is saved.

    Args:
      checkpoints: the open `Checkpoints` of the run.
      log: its `RunLog`, which is written before the save that an error causes.
      config: its configuration as JSON, which is stored with every checkpoint.
      every: the `Intervals` between two saves.

    Attributes:
      latest: the state after the last step; None before the first step.
    """

    def __init__(self, checkpoints: Checkpoints, log: RunLog, config: dict[str, Any], *, every: Intervals) -> None:
        self._checkpoints, self._log, self._config, self._every = checkpoints, log, config, every
        self._last_time = time.monotonic()
        self._begun: int | None = None  # the step whose save began last; it need not be complete on disk
        self.latest: TrainState | None = None

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Saves the steps that an error would lose, or prints what is lost.

        A state that diverged is not saved, nor that of a run which another process has taken over.
        """
        if error is None or isinstance(error, DivergedError | LostError) or self.latest is None:
            return
        last, unsaved = self._last_saved(error)
        together = jax.process_count() == 1 or isinstance(error, AgreedError)
        whole = together and not _consumed(self.latest)  # else reading it may wait for ever
        if whole and agreed(np.array(int(self.latest.step) == last)):
            return
        # A second signal must not wait for another save, and the files of a failed save may still be being written.
        if whole and isinstance(error, Exception) and int(self.latest.step) != self._begun:
            self._rescue(self.latest, unsaved)
        elif is_first() or not together:
            print(f"note: {unsaved}", file=sys.stderr, flush=True)

    def _last_saved(self, error: BaseException) -> tuple[int | None, str]:
        """The newest step on disk, None if it is not known, and in words what the error that ends the run loses."""
        try:
            with waiting(f"the run ends ({first_line(error)}) and waits for the checkpoint that is being saved"):
                last = self._checkpoints.last_saved()
        except UserError as failed:
            return None, f"which checkpoints there are is not known ({failed})"
        return last, "no checkpoint of the run was found" if last is None else f"no step after step {last:,} is saved"

    def due(self, step: int) -> bool:
        """Returns whether the state should be saved after this step.

        If there are several processes, they have to agree on the time, so the clock is read only at some steps.
        """
        if step % self._every.steps == 0:
            return True
        if not self._every.minutes or (jax.process_count() > 1 and step % self._every.agree_every):
            return False
        if jax.process_count() > 1:  # two programs that communicate at the same time may wait for each other on CPUs
            jax.block_until_ready(self.latest)
        return bool(agreed(np.array(time.monotonic() - self._last_time >= 60 * self._every.minutes)))

    def save(self) -> None:
        """Starts to save the latest state.

        Raises:
          DivergedError: its parameters are not finite.
          UserError: this save or the one before cannot be written.
        """
        latest = self.latest
        assert latest is not None, "a step was taken"
        if not np.isfinite(_norm((latest.params, latest.ema_params))):
            raise DivergedError("parameters became infinite", int(latest.step))
        by_first(self._log.store)
        self._checkpoints.save(latest, self._config)
        self._begun, self._last_time = int(latest.step), time.monotonic()

    def wait(self) -> None:
        """Waits until the last save is on disk; raises as `save`."""
        self._checkpoints.wait()

    def _rescue(self, latest: TrainState, unsaved: str) -> None:
        """Saves the latest state, which all processes have, and prints this, or what is lost (`unsaved`)."""
        step = int(latest.step)
        try:
            with contextlib.suppress(UserError):  # the disk of the log may be full and that of the checkpoints not
                self._log.flush()
            self.save()
            self._checkpoints.wait()
        except Exception as error:
            text = f"warning: step {step:,} could not be saved: {first_line(error)}; {unsaved}"
            print(text, file=sys.stderr, flush=True)
        else:
            self._log.say(f"step {step:,} is saved; the same command resumes from there")


def _consumed(state: TrainState) -> bool:
    """Returns whether the memory of the state was donated to a step that failed."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))

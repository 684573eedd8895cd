"""When a run is saved: every so many steps, every so many minutes, at its end, and before an error ends it.

Read next: `checkpoint.py`.
"""

import contextlib
import sys
import time
from typing import Any, Self

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from ddpm_jax.errors import AgreedError, UserError, first_line
from ddpm_jax.runtime.devices import agreed, is_first
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.log import DivergedError, RunLog
from ddpm_jax.training.state import TrainState

_norm = jax.jit(optax.tree.norm)


class Saves:
    """The saves of one run; a context manager that saves the last whole step when an error ends what it surrounds.

    Where it cannot, because the step consumed its state or the other processes are within the next one, it says from
    which step on nothing is saved.

    Args:
      checkpoints: `Checkpoints` of the run, open.
      log: its `RunLog`; what was measured before a save is written before it.
      config: its configuration.

    Attributes:
      latest: the state after the last step; None before the first.
    """

    def __init__(self, checkpoints: Checkpoints, log: RunLog, config: ConfigDict) -> None:
        self._checkpoints, self._log, self._config = checkpoints, log, config
        self._last_time = time.monotonic()
        self._begun: int | None = None  # the step that was saved last, whole on disk or not
        self.latest: TrainState | None = None

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """Saves what an error would lose, or says what is lost; of numbers that are lost the error says it itself."""
        if error is None or isinstance(error, DivergedError) or self.latest is None:
            return
        last = self._checkpoints.last_saved()
        together = jax.process_count() == 1 or isinstance(error, AgreedError)
        whole = together and not _consumed(self.latest)  # else not to be looked at: the others may never finish it
        if whole and agreed(np.array(int(self.latest.step) == last)):
            return
        # Neither does a second signal wait for another save, nor are files written that a failed one may still write.
        if whole and isinstance(error, Exception) and int(self.latest.step) != self._begun:
            self._rescue(last)
        elif is_first() or not together:
            print(f"note: {_unsaved(last)}", file=sys.stderr, flush=True)

    def due(self, step: int) -> bool:
        """Whether the state is to be saved after this step.

        By the clock only at lines of the log where there are several processes, for these have to agree on it.
        """
        options, several = self._config.checkpoint, jax.process_count() > 1
        if step % options.every == 0:
            return True
        if not options.every_minutes or (several and step % self._config.log.every):
            return False
        return bool(agreed(np.array(time.monotonic() - self._last_time >= 60 * options.every_minutes)))

    def save(self) -> None:
        """Starts to save the latest state.

        Raises:
          DivergedError: it is not finite.
          UserError: this save or the one before cannot be written.
        """
        if not np.isfinite(_norm((self.latest.params, self.latest.ema_params))):
            raise DivergedError("parameters became infinite", int(self.latest.step))
        self._checkpoints.save(self.latest, self._config)
        self._begun, self._last_time = int(self.latest.step), time.monotonic()

    def _rescue(self, last: int | None) -> None:
        """Saves the latest state, which all processes have, and says so; `last` is the step that is saved already."""
        step = int(self.latest.step)
        try:
            with contextlib.suppress(UserError):  # a disk that is full for the log may have room elsewhere
                self._log.flush()
            self.save()
            self._checkpoints.wait()
        except Exception as error:
            text = f"warning: step {step:,} could not be saved: {first_line(error)}; {_unsaved(last)}"
            print(text, file=sys.stderr, flush=True)
        else:
            self._log.say(f"step {step:,} is saved; the same command resumes from there")


def _consumed(state: TrainState) -> bool:
    """Whether a step that failed has taken the memory of the state."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _unsaved(last: int | None) -> str:
    """What is lost, where the last step that is saved is `last`."""
    return "nothing of the run is saved" if last is None else f"nothing is saved since step {last:,}"

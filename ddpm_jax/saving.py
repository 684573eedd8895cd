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

from ddpm_jax.checkpoint import Checkpoints
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.logging import DivergedError, RunLog
from ddpm_jax.parallel import agreed
from ddpm_jax.state import TrainState

_norm = jax.jit(optax.tree.norm)


class Saves:
    """The saves of one run; a context manager that saves the last whole step when an error ends what it surrounds.

    Args:
      checkpoints: `Checkpoints` of the run, open.
      log: its `RunLog`; what was measured before a save is written before it.
      config: its configuration.
      start_step: the step that it started from.

    Attributes:
      latest: the state after the last step; None before the first.
    """

    def __init__(self, checkpoints: Checkpoints, log: RunLog, config: ConfigDict, *, start_step: int) -> None:
        self._checkpoints, self._log, self._config = checkpoints, log, config
        self._last_step, self._last_time = start_step, time.monotonic()
        self.latest: TrainState | None = None

    def __enter__(self) -> Self:
        """Returns self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """Saves what an error would lose; not where the numbers are lost, or where a second signal ends the run."""
        if isinstance(error, Exception) and not isinstance(error, DivergedError):
            self._rescue()

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
        step = int(self.latest.step)
        if not np.isfinite(_norm((self.latest.params, self.latest.ema_params))):
            raise DivergedError("parameters became infinite", step)
        self._checkpoints.save(self.latest, self._config)
        self._last_step, self._last_time = step, time.monotonic()

    def _rescue(self) -> None:
        """Saves the latest state of a run of one process, where it is whole and not yet saved, and says so.

        Of several processes the others are in the middle of the next step, and nobody has a whole state.
        """
        state = self.latest
        if state is None or jax.process_count() > 1 or any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
            return
        if (step := int(state.step)) == self._last_step:
            return
        try:
            with contextlib.suppress(UserError):  # a disk that is full for the log may have room elsewhere
                self._log.flush()
            self.save()
            self._checkpoints.wait()
        except Exception as error:
            print(f"warning: step {step:,} could not be saved: {first_line(error)}", file=sys.stderr, flush=True)
        else:
            self._log.say(f"step {step:,} is saved; the same command resumes from there")

"""What a run does when it diverges: it ends with one line that names the images, or returns to an earlier checkpoint.

A roll-back is a resumption in the same process: the log, the batches and the measures are opened again, as if the run
had been told from its beginning to pass over some batches. Read next: `training/divergence.py`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config import CUSTOM, editable
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.data.source import Source, image_name
from ddpm_jax.errors import UserError, one_line
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.inputs import Batches, BatchesFrom
from ddpm_jax.training.log import DivergedError
from ddpm_jax.training.restoring import saved_steps
from ddpm_jax.training.state import TrainState


class Attempts:
    """The attempts at a run: the first one, and one more after each roll-back; iterates over configurations and states.

    Args:
      config: the configuration of the first attempt; that of a later one passes over more batches.
      checkpoints: the open `Checkpoints` of the run.
      source: its images, or the batches of a program.
      begin: function that returns the state of the newest checkpoint, or of step 0.

    Attributes:
      rolled_back_from: the step at which the attempt before this one diverged; 0 for the first attempt.
    """

    def __init__(
        self,
        config: ConfigDict,
        checkpoints: Checkpoints,
        source: Source | Batches | BatchesFrom,
        begin: Callable[[], TrainState],
    ) -> None:
        self._config, self._checkpoints, self._source, self._begin = config, checkpoints, source, begin
        self._diverged: DivergedError | None = None
        self.rolled_back_from = 0

    def __iter__(self) -> Iterator[tuple[ConfigDict, TrainState]]:
        """Yields the configuration of each attempt and the state with which it begins."""
        yield self._config, self._begin()
        while self._diverged:
            error, self._diverged = self._diverged, None
            yield self._rolled_back(error)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ends an attempt that diverges, which another one follows if the run may roll back.

        Raises:
          UserError: it may not; the message names the step, its images and the last good checkpoint.
        """
        try:
            yield
        except DivergedError as error:
            train = self._config.train
            known, passed_over = set(train.pass_over), self._to_pass_over(error.step, since=0)
            fits = len(known | passed_over) <= train.max_passed_over
            if train.on_divergence != "rollback" or not fits or passed_over <= known:
                raise UserError(self._explanation(error)) from error
            self._diverged = error.with_traceback(None)  # whose frames hold the state and the batch on the devices

    def _to_pass_over(self, step: int, *, since: int) -> set[int]:
        """The steps that a roll-back from a step passes over, of those after another one."""
        return set(range(max(since, step - self._config.train.rollback_batches) + 1, step + 1))

    def _rolled_back(self, error: DivergedError) -> tuple[ConfigDict, TrainState]:
        """Returns to the newest checkpoint before the batches to be passed over, or to the oldest if none is so old."""
        before = min(self._to_pass_over(error.step, since=0)) - 1
        self._checkpoints.wait()
        saved = saved_steps(self._checkpoints.folder)
        kept = next((step for step in saved if step <= before), saved[-1] if saved else 0)
        self._checkpoints.remove_after(kept)
        state = self._begin()
        config, since = editable(self._config), int(state.step)
        passed_over = self._to_pass_over(error.step, since=since)
        config.train.pass_over = tuple(sorted({*config.train.pass_over, *passed_over}))
        if is_first():
            which = f"step {error.step:,}" if len(passed_over) == 1 else f"steps {min(passed_over):,} to {error.step:,}"
            print(
                f"note: {error}; the run returns to step {since:,} and passes over the batch of {which} "
                f"({len(config.train.pass_over)} of at most {config.train.max_passed_over})",
                flush=True,
            )
        self._config, self.rolled_back_from = config, error.step
        return config, state

    def _explanation(self, error: DivergedError) -> str:
        """The message about a divergence that ends the run; the images of given batches are not known."""
        config, images = self._config, ""
        if isinstance(self._source, Source):
            order: dict[str, Any] = {"batch_size": config.train.batch_size, "seed": config.seed}
            indices = batch_indices(len(self._source), **order, step=error.step - 1)
            names = [one_line(image_name(self._source, int(index))) for index in indices[:8]]
            images = f", on images {', '.join(names + ['...'] * (len(indices) > 8))} of the data"
        try:
            last = self._checkpoints.last_saved()
            kept = "no checkpoint was found" if last is None else f"the last good checkpoint is step {last}"
        except UserError as failed:
            kept = f"which checkpoints there are is not known ({failed})"
        most = f"config.train.max_passed_over={config.train.max_passed_over}"
        many = f"; {most} permits no more batches to be passed over" if config.train.on_divergence != "stop" else ""
        table = f"give its table of classes a row for the null label {config.labels.num_classes}, or "
        return (
            f"{error}{images}; {kept}{many}; "
            f"{table if config.network == CUSTOM and config.labels.dropout else ''}"
            f"{'correct the loss of your program, ' if config.loss.kind == CUSTOM else ''}"
            "lower config.optim.learning_rate, set config.optim.grad_clip=1 or use config.model.dtype=float32, "
            "and start again with the same command"
        )

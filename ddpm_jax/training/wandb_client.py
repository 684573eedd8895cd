"""Weights & Biases as a `Client` of `trackers.py`; only a run whose log goes there loads this module.

Its environment variables apply: WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY and others. WANDB_MODE=offline keeps a run
on the disk, a folder for each start, to be sent later by `wandb sync`.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import wandb

from ddpm_jax.training.sinks import Start


class WeightsAndBiases:
    """The run of a run in Weights & Biases; its files are in `WORKDIR/wandb`, or in ./wandb for a run in a bucket."""

    name = "wandb"

    def open(self, start: Start, run_id: str | None) -> tuple[str, int]:
        """Opens a run and prints its address; offline, the last step of earlier starts is not known and 0."""
        self._run = wandb.init(
            id=run_id or uuid.uuid4().hex,
            resume="allow",
            name=start.config["name"],
            config=start.config,
            allow_val_change=True,  # of settings that may change when a run is resumed
            dir=str(start.workdir) if isinstance(start.workdir, Path) else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        if not self._run.offline:
            print(f"note: the log also goes to {self._run.url}", flush=True)
        return self._run.id, max(0, self._run.starting_step - 1)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends the numbers of a step by name."""
        self._run.log(dict(numbers), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Sends a picture `[H, W, C]` uint8."""
        self._run.log({name: wandb.Image(image)}, step=step)

    def close(self, error: BaseException | None, done: bool) -> None:
        """Ends the run; Weights & Biases has no state of its own for one that was stopped."""
        self._run.finish(exit_code=0 if error is None else 1)

"""Previews: a hook of the training loop that draws grids of samples while a run is trained."""

import chex
import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.config import denoises
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runs.pictures import grid
from ddpm_jax.runtime.devices import replicated
from ddpm_jax.runtime.images import PICTURED, to_uint8
from ddpm_jax.training.log import RunLog
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Metrics

_SEED = 0


def previews(config: ConfigDict, model: nn.Module, log: RunLog, mesh: Mesh) -> "list[Previews]":
    """The hook that draws the previews of a run, or none, with a note if pictures cannot show its images.

    Args:
      config, model, log, mesh: as for `Previews`.
    """
    if not denoises(config) or not config.log.preview_every:
        return []
    if config.data.channels not in PICTURED:
        log.say(f"note: no previews: a picture has 1 or 3 channels, and the images have {config.data.channels}")
        return []
    return [Previews(config, model, log, mesh)]


class Previews:
    """Draws samples from the parameters and from their average every `config.log.preview_every` steps, in few steps.

    Args:
      config: configuration of the run.
      model: its network.
      log: its `RunLog`, which gets the grids.
      mesh: the devices.
    """

    def __init__(self, config: ConfigDict, model: nn.Module, log: RunLog, mesh: Mesh) -> None:
        self._log, self._indices, self._mesh = log, np.arange(config.log.preview_images), mesh
        self._every, self._classes = config.log.preview_every, config.labels
        steps = min(config.log.preview_steps, config.diffusion.num_timesteps)
        self._chain = chain_of(config, model, num_steps=steps, mesh=mesh)

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Draws and writes both grids if they are due after this step."""
        if step % self._every:
            return
        self._log.flush()  # if the numbers are not finite, its error explains more than a preview's note
        with self._log.clock.phase("previews"):
            for name, params in (("raw", state.params), ("ema", state.ema_params)):
                self._draw(name, params, step)

    def _draw(self, name: str, params: chex.ArrayTree, step: int) -> None:
        """Draws and writes the grid of these parameters, or notes that it is not finite."""
        params = jax.device_put(params, replicated(self._mesh))
        images = self._chain(params, jax.random.key(_SEED), indices=self._indices)
        if not np.isfinite(images).all():
            self._log.say(f"note: no preview with the {name} parameters: the images of its short chain are not finite")
            return
        picture = grid(
            to_uint8(images), self._chain.labels, names=self._classes.names, num_classes=self._classes.num_classes
        )
        self._log.picture(name, picture, step=step)

"""The quality of samples while a run is trained: a measure of the training loop, the Frechet distance to its data."""

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.config import denoises
from ddpm_jax.data.source import Source
from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.features import extractor
from ddpm_jax.evaluation.references import MOST, of_source
from ddpm_jax.metrics.frechet import frechet_distance, moments
from ddpm_jax.runs.chain import root_key
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import padded, replicated
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.training.loop import due
from ddpm_jax.training.state import TrainState

_SEED = 0


def quality(config: ConfigDict, model: nn.Module, source: object, mesh: Mesh, *, workdir: AnyPath) -> "list[Quality]":
    """The measure of the quality of a run's samples, or none.

    Args:
      config, model, mesh, workdir: as for `Quality`.
      source: the images of the training; none are compared with batches that a program gives.
    """
    if not denoises(config) or not config.log.quality_every or not isinstance(source, Source):
        return []
    return [Quality(config, model, source, mesh, workdir=workdir)]


class Quality:
    """Measures the Frechet distance of samples to the training images, with the averaged parameters and a short chain.

    The samples have the same seed at every measurement. A chain of few steps and few images make the distance larger
    than that of the finished run: it is to be compared with the other measurements of the same run.

    Args:
      config: configuration of the run.
      model: its network.
      source: its training images, of which at most 50,000 are the reference.
      mesh: the devices.
      workdir: its directory, where the features of the training images are kept for the next start.

    Raises:
      UserError: there are no features of this name, they are not for these images, or an image cannot be read.
    """

    def __init__(self, config: ConfigDict, model: nn.Module, source: Source, mesh: Mesh, *, workdir: AnyPath) -> None:
        options, name = config.log, config.log.quality_features
        self._every, self._log_every, self._num = options.quality_every, options.every, options.quality_images
        steps = min(options.quality_steps, config.diffusion.num_timesteps)
        self._chain, self._mesh = chain_of(config, model, num_steps=steps, mesh=mesh), mesh
        cache = workdir / "evaluation" / "features"
        extraction = Extraction({name: (extractor(name), ["pool"])}, mesh=mesh, cache=cache)
        self._features, self._batch_size = extraction.compiled[name], extraction.batch_size
        self._reference = of_source(source, num_images=MOST)(extraction)[name].moments("pool")

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """The distance `fd` if it is due; it is not finite if an image is not."""
        if not due(step, self._every, log_every=self._log_every):
            return {}
        params = jax.device_put(state.ema_params, replicated(self._mesh))
        features = []
        for start in range(0, self._num, self._batch_size):
            indices = np.arange(start, min(start + self._batch_size, self._num))
            x = self._chain(params, root_key(_SEED), indices=padded(indices, self._batch_size))[: len(indices)]
            if not np.isfinite(x).all():
                return {"fd": np.nan}
            features.append(self._features(to_uint8(x))["pool"])
        return {"fd": frechet_distance(self._reference, moments(np.concatenate(features)))}

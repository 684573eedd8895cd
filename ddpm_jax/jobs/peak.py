"""The training speed at which the devices of a run would do their peak arithmetic."""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.jobs import costs
from ddpm_jax.jobs.resources import abstract_arguments
from ddpm_jax.runtime.peaks import peak_of
from ddpm_jax.training.state import TrainState


def peak_steps_per_s(
    step_fn: jax.stages.Wrapped, config: ConfigDict, mesh: Mesh, shapes: TrainState, *, num_images: int | None = None
) -> float | None:
    """Returns the training speed in steps/s at the peak of all devices; None if that is not known.

    The arithmetic of a step is counted by XLA before it optimises the step, so what it computes again to save memory
    (config.model.remat) is counted as well. The peak is that of bfloat16, whatever the step computes in.

    Args:
      step_fn: the train step without accumulation, from `compiled_step`.
      config: configuration of the run.
      mesh: the devices.
      shapes: the shapes of the state.
      num_images: the size of the data set, if the step gathers its images from it, or None.
    """
    peak = peak_of(mesh.devices.flat[0].device_kind)
    if peak is None:
        return None
    arguments = abstract_arguments(config, mesh, shapes, num_images=num_images)
    flops = costs.flops(step_fn.lower(*arguments))
    return peak.flops * mesh.size / flops if flops > 0 else None

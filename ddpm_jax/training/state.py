"""What a training run is made of between two steps: arrays only, so that saving it saves everything."""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import stream


class TrainState(flax.struct.PyTreeNode):
    """State of a run.

    Attributes:
      step: int32 `[]`, steps taken.
      params: the parameters that are trained.
      ema_params: their exponential moving average, what one samples with.
      opt_state: the optimiser's.
      times: what the draw of training times remembers, see `diffusion/time_sampling.py`.
      key: the root key; never advanced, `fold_in(key, step)` makes the randomness of a step.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any
    times: Any
    key: jax.Array


def initial_state(key, init_params, *, optimizer, times):
    """The state at step 0.

    Args:
      key: root key of the run.
      init_params: function from a key to parameters.
      optimizer: optax gradient transformation.
      times: `TimeSampler`.
    """
    params = init_params(stream(key, "params"))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        times=times.init(),
        key=stream(key, "train"),
    )


def ema_update(ema_params, params, *, step, decay):
    """Moves the average towards the parameters after step n = 1, 2, ..., by the decay `min(decay, (1+n)/(10+n))`.

    Without the warm-up the average of a short run is mostly the initial parameters.
    """
    chex.assert_trees_all_equal_shapes(ema_params, params)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda ema, new: decay * ema + (1 - decay) * new, ema_params, params)

"""The state of a training run between two steps. It holds arrays only, so that saving it saves everything."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from ddpm_jax.diffusion.arrays import stream
from ddpm_jax.diffusion.time_sampling import TimeSampler
from ddpm_jax.training.divergence import Recent, no_steps

Params = TypeVar("Params")  # a tree of arrays

Tree: TypeAlias = Any
"""A tree of arrays (of JAX or NumPy) or of their shapes, such as a `TrainState`; JAX has no narrower type for it."""


class Teacher(flax.struct.PyTreeNode):
    """What a student learns from, see `diffusion/distillation.py`.

    Attributes:
      params: the parameters of the teacher.
      stage: int32 `[]`, the stage in which it teaches.
    """

    params: chex.ArrayTree
    stage: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """The state of a run.

    Attributes:
      step: int32 `[]`, the number of steps, those that were passed over included.
      params: the parameters that are trained.
      ema_params: their exponential moving average, which is used for sampling.
      opt_state: the state of the optimiser.
      times: the state of the `TimeSampler`, see `diffusion/time_sampling.py`.
      key: a key `[]` that never changes: `fold_in(key, step)` gives the randomness of a step.
      recent: the losses of the latest steps, and how many steps were passed over, see `divergence.py`.
      teacher: the `Teacher` of a student that is taught throughout; () for all other runs.
    """

    step: jax.Array
    params: chex.ArrayTree
    ema_params: chex.ArrayTree
    opt_state: optax.OptState
    times: chex.ArrayTree
    key: jax.Array
    recent: Recent
    teacher: Teacher | tuple[()] = ()


StateInit: TypeAlias = Callable[[jax.Array], TrainState]
"""A function from the root key of a run to its state at step 0."""


def initial_state(
    key: jax.Array,
    init_params: Callable[[jax.Array], chex.ArrayTree],
    *,
    optimizer: optax.GradientTransformation,
    times: TimeSampler,
) -> TrainState:
    """Returns the state at step 0.

    Args:
      key: the root key `[]` of the run.
      init_params: function from a key to the parameters.
      optimizer: optax gradient transformation, whose state is initialised for these parameters.
      times: the way to draw training times, whose state is initialised too.
    """
    params = init_params(stream(key, "params"))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        times=times.init(),
        key=stream(key, "train"),
        recent=no_steps(),
    )


def taught(state: TrainState, params: chex.ArrayTree) -> TrainState:
    """Returns a student's state at step 0, which starts from the parameters of its teacher.

    A state that has a `Teacher` keeps them there as well. What the student has besides stays as it is.
    """
    student, average = (jax.tree.map(jnp.copy, _with(own, params)) for own in (state.params, state.ema_params))
    teacher = state.teacher.replace(params=params) if isinstance(state.teacher, Teacher) else ()
    return state.replace(params=student, ema_params=average, teacher=teacher)


def _with(own: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    """The parameters of a network, of which those that `params` has too are replaced by these."""
    if not isinstance(own, dict) or not isinstance(params, dict):
        return params
    return {**own, **{name: _with(own.get(name, part), part) for name, part in params.items()}}


def at_stage(state: TrainState, stage: jax.Array, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns a student's state in a stage: at the first step of one, the student becomes the teacher.

    Its averaged parameters then teach, and the next student starts from them, with an optimiser that starts anew.

    Args:
      state: the state after any number of steps.
      stage: the stage `[]` of the step that comes next.
      optimizer: optax gradient transformation.
    """
    assert isinstance(state.teacher, Teacher), "only a student is taught in stages"

    def begun(state: TrainState) -> TrainState:
        params, passed = state.ema_params, state.recent.passed_over
        return state.replace(
            params=params,
            opt_state=optimizer.init(params),
            recent=no_steps().replace(passed_over=passed),
            teacher=Teacher(params, stage.astype(jnp.int32)),
        )

    return jax.lax.cond(stage == state.teacher.stage, lambda state: state, begun, state)


def passed_over(state: TrainState) -> TrainState:
    """Returns the state after a step whose batch is passed over: nothing is learned from it, and the step advances."""
    recent = state.recent.replace(passed_over=state.recent.passed_over + 1)
    return state.replace(step=state.step + 1, recent=recent)


def ema_update(ema_params: Params, params: Params, *, step: ArrayLike, decay: ArrayLike) -> Params:
    """`d ema_params + (1 - d) params` after step n = 1, 2, ..., where `d = min(decay, (1 + n) / (10 + n))`.

    Without this warm-up of d, the average of a short run would consist mostly of the initial parameters.

    Args:
      ema_params: the average before the step.
      params: the parameters after the step, a tree of the same shapes.
      step: n, an integer `[]`.
      decay: the decay after the warm-up, from 0 to below 1.
    """
    chex.assert_trees_all_equal_shapes(ema_params, params)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda ema, new: decay * ema + (1 - decay) * new, ema_params, params)

"""The one scan that runs every sampler along its chain.

A `Sampler` is a pair of pure functions in the style of optax: `init` makes the state, `step` takes one step and also
returns what it computed on the way (`StepInfo`). `advance` scans over any sequence of transitions, so that a program
may run the chain in pieces (for a progress bar, or to keep some frames) and get the same numbers as `sample`, which
runs all of it. Read next: `ancestral.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Transition

IndexedTransitions: TypeAlias = tuple[AnyArray, Transition]
"""Transitions of a chain with their places in it, from which their noise is keyed: `(index [n], Transition [n])`."""


class SamplerState(NamedTuple):
    """The state of a chain: the images x, and what the sampler keeps of earlier steps; every leaf is `[B, ...]`."""

    x: Array
    memory: Any = ()


class StepInfo(NamedTuple):
    """What a step has computed besides the next state, so that a caller sees it without a second evaluation.

    Attributes:
      x_0: `[B, ...]`, the estimate of the clean image from x_t at the level where the step starts.
      evaluations: integer `[]`, how many times the step evaluated the denoiser.
    """

    x_0: Array
    evaluations: int | Array = 1


class Sampler(NamedTuple):
    """A method to run the reverse process.

    Attributes:
      init: `x_T -> SamplerState`.
      step: `(denoise, keys, state, transition) -> (SamplerState, StepInfo)`, with keys `[B]`, one per image, for this
        step only.
    """

    init: Callable[[Array], SamplerState]
    step: Callable[[Denoiser, Array, SamplerState, Transition], tuple[SamplerState, StepInfo]]


class Advanced(NamedTuple):
    """The result of `advance`.

    Attributes:
      state: the `SamplerState` after the last step.
      info: the estimate of x_0 from the state that was given, by the first step, and the evaluations of all steps.
      kept: what `keep` returned of each step, with a leading axis `[n]`; None without `keep`.
    """

    state: SamplerState
    info: StepInfo
    kept: Any


def advance(
    sampler: Sampler,
    denoise: Denoiser,
    keys: Array,
    *,
    state: SamplerState,
    indexed: IndexedTransitions,
    keep: Callable[[SamplerState, StepInfo], Any] | None = None,
) -> Advanced:
    """Runs a chain along the given transitions.

    Args:
      sampler: `Sampler`.
      denoise: `Denoiser`.
      keys: `[B]` keys, one per image, the same for the whole chain.
      state: `SamplerState` from `sampler.init` or from an earlier `advance`.
      indexed: `(index [n], Transition [n])`: the transitions' places in the chain, from which their noise is keyed, and
        the transitions.
      keep: function from the state after a step and its `StepInfo` to what is kept of the step; None for nothing.
    """

    def step(carry: tuple[SamplerState, StepInfo], at: IndexedTransitions) -> tuple[Any, Any]:
        (state, before), (index, transition) = carry, at
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        state, info = sampler.step(denoise, step_keys, state, transition)
        if not isinstance(info, StepInfo):
            raise TypeError(f"a sampler's step must return (SamplerState, StepInfo), and returned {type(info)} last")
        x_0 = jnp.where(before.evaluations == 0, info.x_0, before.x_0)
        return (state, StepInfo(x_0, before.evaluations + info.evaluations)), keep(state, info) if keep else None

    nothing = StepInfo(jnp.zeros_like(state.x), jnp.zeros((), jnp.int32))
    (state, info), kept = jax.lax.scan(step, (state, nothing), indexed)
    return Advanced(state, info, kept)


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    keys: Array,
    *,
    x_T: Array,
    transitions: Transition,
    trajectory: bool = False,
) -> Array:
    """Runs a whole chain from x_T (Ho et al. 2020, algorithm 2, for any sampler).

    Args:
      sampler: `Sampler`, e.g. `ancestral(Variance.LARGE)`.
      denoise: `Denoiser`.
      keys: `[B]` keys, one per image.
      x_T: `[B, ...]`, standard normal.
      transitions: `Transition` with leaves `[N]`, from `NoiseSchedule.transitions`.
      trajectory: whether to return every x of the chain.

    Returns:
      x `[B, ...]` at the end of the chain; with `trajectory`, every x from x_T on, `[N + 1, B, ...]`.
    """
    chex.assert_equal_shape_prefix([keys, x_T], 1)
    chex.assert_rank(transitions.beta, 1)
    indexed = (jnp.arange(transitions.num_steps), transitions)
    keep = (lambda state, info: state.x) if trajectory else None
    end = advance(sampler, denoise, keys, state=sampler.init(x_T), indexed=indexed, keep=keep)
    return jnp.concatenate([x_T[None], end.kept]) if trajectory else end.state.x

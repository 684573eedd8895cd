"""The one scan that runs every sampler along its chain.

A `Sampler` is a pair of pure functions in the style of optax: `init` makes the state, `step` takes one step. `advance`
scans over any sequence of transitions, so that a program may run the chain in pieces (for a progress bar, or to keep
some frames) and get the same numbers as `sample`, which runs all of it. Read next: `ancestral.py`.
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


class Sampler(NamedTuple):
    """A method to run the reverse process.

    Attributes:
      init: `x_T -> SamplerState`.
      step: `(denoise, keys, state, transition) -> SamplerState`, with keys `[B]`, one per image, for this step only.
    """

    init: Callable[[Array], SamplerState]
    step: Callable[[Denoiser, Array, SamplerState, Transition], SamplerState]


def advance(
    sampler: Sampler,
    denoise: Denoiser,
    keys: Array,
    *,
    state: SamplerState,
    moves: IndexedTransitions,
    trajectory: bool = False,
) -> tuple[SamplerState, Array | None]:
    """Runs a chain along the given transitions.

    Args:
      sampler: `Sampler`.
      denoise: `Denoiser`.
      keys: `[B]` keys, one per image, the same for the whole chain.
      state: `SamplerState` from `sampler.init` or from an earlier `advance`.
      moves: `(index [n], Transition [n])`: the transitions' places in the chain, from which their noise is keyed, and
        the transitions.
      trajectory: whether to keep x after each step.

    Returns:
      The state after the last step, and x after each step `[n, B, ...]` or None.
    """

    def move(state: SamplerState, indexed: IndexedTransitions) -> tuple[SamplerState, Array | None]:
        index, transition = indexed
        move_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        state = sampler.step(denoise, move_keys, state, transition)
        return state, state.x if trajectory else None

    return jax.lax.scan(move, state, moves)


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
    moves = (jnp.arange(len(transitions.beta)), transitions)
    state, xs = advance(sampler, denoise, keys, state=sampler.init(x_T), moves=moves, trajectory=trajectory)
    return jnp.concatenate([x_T[None], xs]) if trajectory else state.x

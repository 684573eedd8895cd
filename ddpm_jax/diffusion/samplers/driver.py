"""The one scan that drives every sampler down its chain.

A `Sampler` is a pair of pure functions in the manner of optax: `init` makes the state, `step` makes one move. `advance`
scans any run of moves, so that a program may take the chain in pieces (for a progress bar, or to keep some frames)
and get the same numbers as `sample`, which takes it whole. Read next: `ancestral.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array


class SamplerState(NamedTuple):
    """Where a chain is: the images x, and what the sampler remembers of earlier moves; every leaf `[B, ...]`."""

    x: Array
    memory: Any = ()


class Sampler(NamedTuple):
    """A way to move down the chain.

    Attributes:
      init: `x_T -> SamplerState`.
      step: `(denoise, keys, state, transition) -> SamplerState`, with one key an image `[B]` for this move.
    """

    init: Callable[[Array], SamplerState]
    step: Callable[..., SamplerState]


def advance(sampler, denoise, keys, *, state, moves, trajectory=False):
    """Takes the given moves of a chain.

    Args:
      sampler: `Sampler`.
      denoise: `Denoiser`.
      keys: `[B]` keys, one an image, the same for the whole chain.
      state: `SamplerState` from `sampler.init` or from an earlier `advance`.
      moves: `(index [n], Transition [n])`: the moves' places in the chain, from which their noise is keyed, and the
        moves.
      trajectory: keep x after each move.

    Returns:
      The state after the moves, and x after each `[n, B, ...]` or None.
    """

    def move(state, indexed):
        index, transition = indexed
        move_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        state = sampler.step(denoise, move_keys, state, transition)
        return state, state.x if trajectory else None

    return jax.lax.scan(move, state, moves)


def sample(sampler, denoise, keys, *, x_T, transitions, trajectory=False):
    """Takes a whole chain from x_T (Ho et al. 2020, algorithm 2, for any sampler).

    Args:
      sampler: `Sampler`, e.g. `ancestral(Variance.LARGE)`.
      denoise: `Denoiser`.
      keys: `[B]` keys, one an image.
      x_T: `[B, ...]`, standard normal.
      transitions: `Transition` with leaves `[N]`, from `NoiseSchedule.transitions`.
      trajectory: return every x of the chain.

    Returns:
      x `[B, ...]` at the end of the chain, or `[N + 1, B, ...]` from x_T on with `trajectory`.
    """
    chex.assert_equal_shape_prefix([keys, x_T], 1)
    chex.assert_rank(transitions.beta, 1)
    moves = (jnp.arange(len(transitions.beta)), transitions)
    state, xs = advance(sampler, denoise, keys, state=sampler.init(x_T), moves=moves, trajectory=trajectory)
    return jnp.concatenate([x_T[None], xs]) if trajectory else state.x

"""A random number generator that records how each of its keys is used."""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jax.extend import random as generators

Counts: TypeAlias = Counter[tuple[int, ...]]
"""How often something happened to each key, a key being the tuple of its integers."""


class Uses(NamedTuple):
    """How often each key was consumed by random bits, folded and split."""

    consumed: Counts
    folded: Counts
    split: Counts

    def check(self) -> None:
        """Asserts that no key is consumed twice, and that none with children is consumed."""
        assert self.consumed
        assert [key for key, times in self.consumed.items() if times > 1] == []
        assert self.consumed.keys() & (self.folded.keys() | self.split.keys()) == set()


@contextmanager
def recorded() -> Iterator[tuple[Uses, Hashable]]:
    """Yields the uses so far and the generator that makes the keys, `jax.random.key(seed, impl=generator)`.

    Compilation is off inside the context, so that every use is seen when it happens. The numbers are threefry's.
    """
    uses, threefry = Uses(Counter(), Counter(), Counter()), generators.threefry_prng_impl

    def count(counter: Counts, key: jax.Array) -> None:
        jax.debug.callback(lambda key: counter.update([tuple(np.asarray(key).tolist())]), key)

    def random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
        count(uses.consumed, key)
        return threefry.random_bits(key, bit_width, shape)

    def fold_in(key: jax.Array, data: jax.Array) -> jax.Array:
        count(uses.folded, key)
        return threefry.fold_in(key, data)

    def split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        count(uses.split, key)
        return threefry.split(key, shape)

    generator = generators.define_prng_impl(
        key_shape=threefry.key_shape,
        seed=threefry.seed,
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name="recorded",
        tag="recorded",
    )
    with jax.disable_jit():
        yield uses, generator
        jax.effects_barrier()

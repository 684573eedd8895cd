"""A random number generator that tells what became of each of its keys."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from jax.extend import random as generators


class Uses(NamedTuple):
    """How often each key, as a tuple of integers, was consumed by random bits, folded and split."""

    consumed: Counter
    folded: Counter
    split: Counter

    def check(self) -> None:
        """Asserts that no key is consumed twice, and that none with children is consumed."""
        assert self.consumed
        assert [key for key, times in self.consumed.items() if times > 1] == []
        assert self.consumed.keys() & (self.folded.keys() | self.split.keys()) == set()


@contextmanager
def recorded() -> Iterator[tuple[Uses, object]]:
    """Yields the uses so far and the generator to make keys of, `jax.random.key(seed, impl=generator)`.

    Compilation is off meanwhile, so that every use is seen when it happens. The numbers are those of threefry.
    """
    uses, threefry = Uses(Counter(), Counter(), Counter()), generators.threefry_prng_impl

    def count(counter, key):
        jax.debug.callback(lambda key: counter.update([tuple(np.asarray(key).tolist())]), key)

    def random_bits(key, bit_width, shape):
        count(uses.consumed, key)
        return threefry.random_bits(key, bit_width, shape)

    def fold_in(key, data):
        count(uses.folded, key)
        return threefry.fold_in(key, data)

    def split(key, shape):
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

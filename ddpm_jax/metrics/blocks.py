"""A function of the rows of an array, computed in blocks of rows over all devices of this process.

A measure that compares N images with M images fills a matrix `[N, M]`, which does not fit the memory for 50,000 images.
`by_rows` keeps a few hundred rows of it on each device at a time.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROWS = 256
"""Rows of a matrix that one device holds at once."""


def by_rows(
    function: Callable[..., Any], rows: tuple[np.ndarray, ...], whole: tuple[np.ndarray, ...], **settings: Hashable
) -> Any:
    """A function of a block of rows, evaluated for all rows, as a tree of NumPy arrays whose first axis is N.

    The types of the arrays stay as they are, float64 included, and the function may compute in float64.

    Args:
      function: a function of the module level, `(*rows [R, ...], *whole, **settings)` to a tree of arrays `[R, ...]`,
        whose value at a row depends on that row and on `whole` alone.
      rows: arrays `[N, ...]` that are split over blocks and devices, N at least 1.
      whole: arrays of which every device has a copy.
      settings: Python values; each combination is compiled once.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("rows",))
    num = len(rows[0])
    size = min(ROWS, -(-num // mesh.size)) * mesh.size
    with jax.enable_x64(True):
        program = _compiled(function, mesh, len(rows), len(whole), tuple(sorted(settings.items())))
        copies = [jax.device_put(array, NamedSharding(mesh, PartitionSpec())) for array in whole]
        done = []
        for start in range(0, num, size):
            index = np.minimum(np.arange(start, start + size), num - 1)  # the last row fills the last block
            parts = [jax.device_put(array[index], NamedSharding(mesh, PartitionSpec("rows"))) for array in rows]
            done.append(jax.tree.map(np.asarray, program(*parts, *copies)))
    return jax.tree.map(lambda *blocks: np.concatenate(blocks)[:num], *done)


@functools.lru_cache(maxsize=64)
def _compiled(
    function: Callable[..., Any],
    mesh: Mesh,
    num_rows: int,
    num_whole: int,
    settings: tuple[tuple[str, Hashable], ...],
) -> Callable[..., Any]:
    """The function as one program of all devices, which exchange nothing."""
    return jax.jit(
        jax.shard_map(
            functools.partial(function, **dict(settings)),
            mesh=mesh,
            in_specs=(*[PartitionSpec("rows")] * num_rows, *[PartitionSpec()] * num_whole),
            out_specs=PartitionSpec("rows"),
            check_vma=False,
        )
    )

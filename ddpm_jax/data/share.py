"""The part of an endless sequence of examples that one of several hosts reads.

It is a module of its own because worker processes import it by name, and other modules import Grain only when they use
it.
"""

import signal
from collections.abc import Sequence
from typing import Any

import grain

from ddpm_jax.data.shared_memory import use_prefix


class Share(grain.MapDataset):
    """One host's part of every global batch, in the order of the batch.

    A host has the same rows of each batch, those that its devices hold, so that the parts of all hosts are the batch
    that a single host would have.
    """

    def __init__(self, sequence: grain.MapDataset, *, batch_size: int, rows: Sequence[int]) -> None:
        """Takes the sequence, the size of the global batch, and the rows of this host."""
        super().__init__(sequence)
        self._batch_size, self._rows, self._size = batch_size, tuple(map(int, rows)), len(rows)

    @property
    def num_rows(self) -> int:
        """The number of elements of each batch that this host takes."""
        return self._size

    def __len__(self) -> int:
        """The number of elements of this host."""
        return len(self._parent) // self._batch_size * self._size

    def __getitem__(self, index: int | slice) -> Any:
        """Element `index` of this host, or of a slice the data set of its elements."""
        if isinstance(index, slice):
            return self.slice(index)
        step, offset = divmod(index, self._size)
        return self._parent[step * self._batch_size + self._rows[offset]]


def left_to_the_trainer(prefix: str, index: int, count: int) -> None:
    """Lets the worker of this number, of `count`, take no signal: Slurm sends SIGTERM to every process of a step.

    The process that trains decides when to end, and needs images until then. It also removes the shared memory whose
    name begins with `prefix`.
    """
    use_prefix(prefix)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

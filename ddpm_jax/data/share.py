"""The part of an endless sequence of examples that one of several hosts reads.

It is a module of its own because worker processes import it by name, and other modules import Grain only when they use
it.
"""

from typing import Any

import grain


class Share(grain.MapDataset):
    """One host's part of every global batch, in the order of the batch.

    Host p of P has the elements `p B/P .. (p + 1) B/P - 1` of each batch of B, so that the parts of all hosts, in the
    order of the devices, are the batch that a single host would have.
    """

    def __init__(self, sequence: grain.MapDataset, *, batch_size: int, process_index: int, process_count: int) -> None:
        """Takes the sequence, and B, p and P of the class's description."""
        super().__init__(sequence)
        self._batch_size, self._size = batch_size, batch_size // process_count
        self._begin = process_index * self._size

    def __len__(self) -> int:
        """The number of elements of this host."""
        return len(self._parent) // self._batch_size * self._size

    def __getitem__(self, index: int | slice) -> Any:
        """Element `index` of this host, or of a slice the data set of its elements."""
        if isinstance(index, slice):
            return self.slice(index)
        step, offset = divmod(index, self._size)
        return self._parent[step * self._batch_size + self._begin + offset]

"""The part of an endless sequence of examples that one of several hosts reads.

A module of its own, since worker processes import it by name and nothing else needs Grain at once.
"""

import grain


class Share(grain.MapDataset):
    """Of every global batch the part of one host, in the order of the batch.

    Host p of P has elements `p B/P .. (p + 1) B/P - 1` of each batch of B, so that the hosts' parts, put together along
    the devices, are the batch of a single host.
    """

    def __init__(self, sequence, *, batch_size, process_index, process_count):
        """Takes a sequence and B, p and P of the class's description."""
        super().__init__(sequence)
        self._batch_size, self._size = batch_size, batch_size // process_count
        self._begin = process_index * self._size

    def __len__(self):
        """The number of elements that are this host's."""
        return len(self._parent) // self._batch_size * self._size

    def __getitem__(self, index):
        """Element `index` of this host, or the elements of a slice."""
        if isinstance(index, slice):
            return self.slice(index)
        step, offset = divmod(index, self._size)
        return self._parent[step * self._batch_size + self._begin + offset]

"""Batches addressed by step: the batch of step s is a function of (seed, s) and of no earlier batch.

The images form one endless sequence of epochs, each shuffled differently by the seed. With batches of size B, step s
takes the elements s B .. s B + B - 1 of it, so a batch may contain the end of one epoch and the beginning of the
next; a host takes the rows of the batch that its devices hold (`share.py`). A run is resumed by its step alone, on any
number of hosts, and there is no iterator state to store.

Read next: `digits.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError

if TYPE_CHECKING:
    import grain

Element = TypeVar("Element")


def batches(
    source: Source | Sequence[int],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    rows: Sequence[int] | None = None,
    memory: str = "",
) -> "grain.DatasetIterator":
    """An endless iterator over this host's share of the batches of steps `start_step`, `start_step` + 1, ...

    Args:
      source: `Source` of at least one image, or numbers, such as the indices of the images.
      batch_size: B, over all hosts.
      seed: the seed of the shuffling, a non-negative integer.
      start_step: the step of the first batch.
      num_workers: number of processes that read ahead, each spawned with a copy of the source; with 0 a thread
        reads ahead. The batches are the same. A program that uses workers needs the `if __name__ ==
        "__main__"` guard.
      rows: the rows of each batch that this host takes, as `devices.own_rows` gives them; by default all, 0..B - 1.
      memory: how the names of the workers' shared memory begin; "" for a prefix that nobody else knows.

    Returns:
      A Grain iterator of `Example`: numpy arrays, image uint8 `[R, H, W, C]` and label int32 `[R]` for R rows; of
      numbers, arrays `[R]` of them. Its `close` ends the workers; `contextlib.closing` calls it.

    Raises:
      UserError: there are no images, B is not positive, or the seed is negative. An image that
        cannot be read raises when its batch is requested.
    """
    import grain

    from ddpm_jax.data.share import Share, left_to_the_trainer
    from ddpm_jax.data.shared_memory import new_prefix

    if batch_size < 1:
        raise UserError(f"the batch size must be positive, got {batch_size}")
    sequence = _endless_sequence(grain.MapDataset.source(source), seed)
    share = Share(sequence, batch_size=batch_size, rows=range(batch_size) if rows is None else rows)
    share = share.batch(share.num_rows, drop_remainder=True)
    # One thread: decoding and stacking hold the interpreter lock, so that processes help and more threads do not.
    dataset = share[start_step:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    if num_workers:
        _parse_flags()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=partial(left_to_the_trainer, memory or new_prefix()))
    return iter(dataset)


def batch_indices(num_examples: int, *, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The indices of the images in the batch of one step, for a message that has to name them.

    Args:
      num_examples: the length of the source.
      batch_size: B, over all hosts.
      seed: as given to `batches`.
      step: the step.

    Returns:
      Indices in 0..num_examples - 1, `[B]`, in the order of the batch.
    """
    import grain

    sequence = _endless_sequence(grain.MapDataset.range(num_examples), seed)
    return sequence.batch(batch_size, drop_remainder=True)[step]


def _endless_sequence(examples: "grain.MapDataset[Element]", seed: int) -> "grain.MapDataset[Element]":
    """The examples, or their indices, in the order of training."""
    if not len(examples):
        raise UserError("the data set contains no images")
    if seed < 0:
        raise UserError(f"the seed must not be negative, got {seed}")
    return examples.seed(seed).shuffle().repeat()


def _parse_flags() -> None:
    """Lets Grain read its absl flags in a program that parses no flags, such as a notebook."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

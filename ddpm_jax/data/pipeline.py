"""Batches addressed by step: the batch of step s is a function of (seed, s) and of nothing that came before.

The images form one endless sequence, epoch after epoch, each epoch shuffled anew by the seed. Step s of a
batch of B takes the elements s B .. s B + B - 1 of it, so an epoch's end may lie inside a batch; of these,
host p of P takes the p-th of P equal parts (`share.py`). A run is resumed by naming its step, on any number of hosts,
and there is no iterator state to store.

Read next: `digits.py`.
"""

import numpy as np

from ddpm_jax.errors import UserError


def batches(source, *, batch_size, seed, start_step=0, num_workers=0, process_index=0, process_count=1):
    """Iterates without end over this host's share of the batches of steps `start_step`, `start_step` + 1, ...

    Args:
      source: `Source` of at least one image.
      batch_size: B, over all hosts.
      seed: of the shuffling, a non-negative integer.
      start_step: the step of the first batch.
      num_workers: processes that read ahead, each spawned with a copy of the source; 0 reads ahead in a
        thread. The batches are the same. A program that asks for workers needs the `if __name__ ==
        "__main__"` guard.
      process_index: p, this host, as `jax.process_index()`.
      process_count: P, the number of hosts.

    Returns:
      A Grain iterator of `Example`: numpy arrays, image uint8 `[B / P, H, W, C]` and label int32 `[B / P]`.
      Its `close` ends the workers; `contextlib.closing` calls it.

    Raises:
      UserError: no images, B not a positive multiple of P, or a negative seed. An image that cannot be read
        raises when its batch is asked for.
    """
    import grain

    from ddpm_jax.data.share import Share

    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"the batch size {batch_size} must be a positive multiple of {process_count} (hosts)")
    sequence = _endless_sequence(grain.MapDataset.source(source), seed)
    share = Share(sequence, batch_size=batch_size, process_index=process_index, process_count=process_count)
    share = share.batch(batch_size // process_count, drop_remainder=True)
    # One thread: decoding and stacking hold the interpreter lock, more threads gain nothing and processes do.
    dataset = share[start_step:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    if num_workers:
        _parse_flags()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options)
    return iter(dataset)


def batch_indices(num_examples, *, batch_size, seed, step) -> np.ndarray:
    """Which images of a source make the batch of one step, for a message that has to name them.

    Args:
      num_examples: the length of the source.
      batch_size: B, over all hosts.
      seed: as given to `batches`.
      step: the step.

    Returns:
      Indices in 0..num_examples - 1, `[B]`, in the order of the batch; host p of P has the p-th of P equal parts.
    """
    import grain

    sequence = _endless_sequence(grain.MapDataset.range(num_examples), seed)
    return sequence.batch(batch_size, drop_remainder=True)[step]


def _endless_sequence(examples, seed):
    """The order of training, for the images and for their indices alike."""
    if not len(examples):
        raise UserError("the data set holds no images")
    if seed < 0:
        raise UserError(f"the seed must not be negative, as {seed} is")
    return examples.seed(seed).shuffle().repeat()


def _parse_flags():
    """Lets Grain read its absl flags in a program that parses none, such as a notebook."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

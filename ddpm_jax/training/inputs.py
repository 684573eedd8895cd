"""The batches that the train step gets: read from a source, gathered on the devices, or given by a program.

The images of a source and their order are the same whether they are read or gathered, so a run may change from one to
the other. Each function is a context manager over an endless iterator, whose first batch is that of step
`order.start_step` + 1. Read next: `data/pipeline.py`, `step.py`.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.data import shared_memory
from ddpm_jax.data.pipeline import batches
from ddpm_jax.data.source import Example, Source
from ddpm_jax.errors import TransientError, UserError, first_line, shortened
from ddpm_jax.runtime.devices import global_batch, own_rows, replicated
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.training.step import Batch, check_batch

_MOST_BYTES = 4 * 2**30  # of a data set on one device; reading ahead is better for a larger one

Batches: TypeAlias = Iterable[Mapping[str, Any]]
"""Batches of a user's own, `{"image": uint8 [B, H, W, C], "label": integers [B]}`, of any array library."""

BatchesFrom: TypeAlias = Callable[[int], Batches]
"""A function from the number of steps taken to the batches of the steps after it."""


class Order(NamedTuple):
    """Which batches come in which order.

    Attributes:
      batch_size: B, over all processes.
      seed: the seed of the shuffling.
      start_step: the number of steps already taken.
    """

    batch_size: int
    seed: int
    start_step: int


@contextlib.contextmanager
def read_batches(source: Source, mesh: Mesh, order: Order, *, num_workers: int = 0) -> Iterator[Iterator[Batch]]:
    """Reads the batches of a source as they are needed, and cuts each along the mesh.

    Args:
      source: the data set, a `CheckedSource` unless its examples are known to have the right form.
      mesh: the devices.
      order: the `Order`.
      num_workers: number of processes that read, 0 for a thread.

    Raises:
      UserError: as `pipeline.batches`, or the source cannot be sent to a process.
      TransientError: a process that reads has died.
    """
    if num_workers:
        _check_sendable(source)
    memory = shared_memory.new_prefix()
    with contextlib.ExitStack() as opened:
        opened.callback(shared_memory.release, memory)  # in the end, after the workers
        stream = batches(source, num_workers=num_workers, memory=memory, **_share(order, mesh))
        opened.callback(stream.close)
        yield (global_batch(mesh, batch) for batch in shared_memory.without_names(_whole_workers(stream)))


@contextlib.contextmanager
def gathered_batches(source: Source, mesh: Mesh, order: Order) -> Iterator[Iterator[tuple[Batch, jax.Array]]]:
    """Puts a whole source on every device; a batch is the pair of it and the indices int32 `[B]` of its images.

    The step for such a batch is made by `step.gathering`; the arguments are as for `read_batches`.

    Raises:
      UserError: the images take more than 4 GiB, have another form, or one of them cannot be read.
    """
    data = on_devices(source, mesh)
    with contextlib.closing(batches(range(len(source)), **_share(order, mesh))) as stream:
        yield ((data, global_batch(mesh, index.astype(np.int32))) for index in stream)


@contextlib.contextmanager
def given_batches(
    given: Batches | BatchesFrom, mesh: Mesh, order: Order, *, shape: tuple[int, ...], num_classes: int = 0
) -> Iterator[Iterator[Batch]]:
    """Takes the batches of a user's own iterable, and cuts each along the mesh.

    An iterable starts at its beginning whenever a run is started or resumed, and again when it ends. A function of the
    number of steps taken decides itself, so with it a resumed run can see the batches of an uninterrupted one. An
    object that can be called is such a function, also if it can be iterated. Of several processes each gives the
    examples of its own devices, those of the rows `devices.own_rows`.

    Args:
      given: the batches.
      mesh: the devices.
      order: the `Order`, of which the seed is not used.
      shape: shape of an image, `(H, W, C)`.
      num_classes: the number of classes of the model; 0 for an unconditional one, which ignores the labels.

    Raises:
      UserError: the batches end and cannot be iterated again, or one of them has another form or size.
    """

    def stream() -> Iterator[Batch]:
        step, share = order.start_step, len(own_rows(mesh, order.batch_size))
        while True:
            begin, round_ = step, iter(_begun(given, step))
            for step, batch in enumerate(round_, begin + 1):
                arrays = _of_classes(num_classes, _as_arrays(batch))
                _check_form(arrays["image"].shape, (share, *shape), step)
                yield global_batch(mesh, arrays)
            if step == begin or callable(given) or round_ is given:
                raise UserError(
                    f"the given batches ended after step {step}: give more, or an iterable that can be iterated again, "
                    "such as a list or a DataLoader, and not a generator"
                )

    yield stream()


def _begun(given: Batches | BatchesFrom, step: int) -> Batches:
    """The batches after a number of steps; raises a `UserError` if they are not an iterable."""
    begun = given(step) if callable(given) else given
    if not isinstance(begun, Iterable):
        what = "the function of batches returned" if callable(given) else "the batches are"
        raise UserError(f"{what} {shortened(repr(begun))}, which cannot be iterated: yield one batch after another")
    return begun


def _as_arrays(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of a given batch as arrays of NumPy, or the batch itself if it has no images or labels.

    A copy, because a program may fill the same memory with its next batch while this one is still being read.
    """
    if not isinstance(batch, Mapping) or not {"image", "label"} <= batch.keys():
        return batch
    return {name: np.asarray(batch[name]).copy() for name in ("image", "label")}


def _check_form(given: tuple[int, ...], wanted: tuple[int, ...], step: int) -> None:
    """Raises a `UserError` if the images of a given batch have another number or another size."""
    if given != wanted:
        raise UserError(
            f"the given batch of step {step} has images {list(given)} in place of {list(wanted)}: set "
            "config.train.batch_size (over all processes), data.image_size and data.channels to what the batches hold, "
            "and drop an incomplete last batch"
        )


def _check_sendable(source: Source) -> None:
    """Raises a `UserError` if a source cannot be pickled, as it must be for processes that read it."""
    try:
        pickle.Pickler(_Nowhere()).dump(source)
    except Exception as error:  # pickling calls code of the source's class
        raise UserError(
            f"the source cannot be sent to the processes that read images ({first_line(error)}): define its class at "
            "the top of a module, or set config.data.num_workers to 0"
        ) from error


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, data: bytes) -> int:
        """Returns the number of bytes, as a file does."""
        return len(data)


def _of_classes(num_classes: int, batch: Mapping[str, Any]) -> Example:
    """The batch, after a check of its labels: indexing a table on the device would take the last class for any other.

    Raises:
      UserError: the batch has another form, or a label is not in 0..num_classes - 1, if there are classes.
    """
    check_batch(batch)
    lowest, highest = int(batch["label"].min()), int(batch["label"].max())
    if num_classes and not 0 <= lowest <= highest < num_classes:
        wrong = lowest if lowest < 0 else highest
        raise UserError(f"the data has a label {wrong}, and there are {num_classes} classes: 0 to {num_classes - 1}")
    return {"image": batch["image"], "label": batch["label"].astype(np.int32)}


def _share(order: Order, mesh: Mesh) -> dict[str, Any]:
    """The order as arguments of `pipeline.batches`, for the part of this process."""
    return {**order._asdict(), "rows": own_rows(mesh, order.batch_size)}


def _whole_workers(stream: Iterator[Example]) -> Iterator[Example]:
    """Yields the batches of a stream; raises a `TransientError` if a worker process dies."""
    try:
        yield from stream
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise TransientError(
            f"a process that reads images ended unexpectedly ({first_line(error).partition('. ')[0]}), usually because "
            "memory ran out: start the same command again, with a smaller config.data.num_workers (0 for none) if this "
            "comes again"
        ) from error


def on_devices(source: Source, mesh: Mesh) -> Batch:
    """Puts all examples of a source on every device: `{"image": uint8 [N, H, W, C], "label": int32 [N]}`.

    Args:
      source: the data set, of N images, as for `read_batches`.
      mesh: the devices, each of which holds the whole data set.

    Raises:
      UserError: the images take more than 4 GiB, or one of them cannot be read.
    """
    form = source[0]["image"]
    if form.nbytes * len(source) > _MOST_BYTES:
        raise UserError(
            f"{len(source):,} images take {form.nbytes * len(source) / 2**30:.0f} GiB on each device; read them "
            "when they are needed, with config.data.on_device=False"
        )
    images, labels = np.empty((len(source), *form.shape), form.dtype), np.empty(len(source), np.int32)
    with progress_bar(len(source), "reading", unit="image", delay=2) as bar:
        for i in range(len(source)):
            example = source[i]
            images[i], labels[i] = example["image"], example["label"]
            bar.update()
    whole = replicated(mesh)
    place = lambda x: jax.make_array_from_callback(x.shape, whole, lambda index: x[index])
    return {"image": place(images), "label": place(labels)}

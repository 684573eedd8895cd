"""The batches that the train step gets: read as they are needed, or gathered from a data set on the devices.

The images and their order are the same in both cases, so a run may change from one to the other. Read next:
`data/pipeline.py`, `step.py`.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.data.pipeline import batches
from ddpm_jax.data.source import Example, Source
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.runtime.devices import global_batch, replicated
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.training.step import Batch, check_batch

_MOST_BYTES = 4 * 2**30  # of a data set on one device; reading ahead is better for a larger one


@contextlib.contextmanager
def feed(
    config: ConfigDict, source: Source, mesh: Mesh, *, start_step: int
) -> Iterator[Iterator[Batch | tuple[Batch, jax.Array]]]:
    """Yields an endless iterator over the batches of steps `start_step`, `start_step` + 1, ..., cut along the mesh.

    A batch is `{"image": uint8 [B, H, W, C], "label": int32 [B]}`. With `config.data.on_device` it is the pair of the
    whole data set and the indices int32 `[B]` of its images, for a step made by `step.gathering`.

    Args:
      config: configuration of the run.
      source: the data set.
      mesh: the devices.
      start_step: the number of steps already taken.

    Raises:
      UserError: as `batches`; the data set is too large for the devices.
    """
    share = {
        "batch_size": config.train.batch_size,
        "seed": config.seed,
        "start_step": start_step,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if not config.data.on_device:
        with contextlib.closing(batches(source, num_workers=config.data.num_workers, **share)) as stream:
            yield (global_batch(mesh, batch) for batch in _whole_workers(stream))
        return
    data = on_devices(source, mesh)
    with contextlib.closing(batches(range(len(source)), **share)) as stream:
        yield ((data, global_batch(mesh, index.astype(np.int32))) for index in stream)


def _whole_workers(stream: Iterator[Example]) -> Iterator[Example]:
    """Yields the batches of a stream; raises a `UserError` if a worker process dies."""
    try:
        yield from stream
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise UserError(
            f"a process that reads images ended unexpectedly ({first_line(error).partition('. ')[0]}), usually because "
            "memory ran out: use fewer such processes with --config.data.num_workers (0 for none), and start again"
        ) from error


def on_devices(source: Source, mesh: Mesh) -> Batch:
    """Puts all examples of a source on every device: `{"image": uint8 [N, H, W, C], "label": int32 [N]}`.

    Args:
      source: the data set, of N images.
      mesh: the devices, each of which holds the whole data set.

    Raises:
      UserError: the images take more than 4 GiB, are not uint8 images with labels, or one of them cannot be read.
    """
    first = source[0]
    check_batch(jax.tree.map(lambda x: np.asarray(x)[None], first))
    form = first["image"]
    if form.nbytes * len(source) > _MOST_BYTES:
        raise UserError(
            f"{len(source):,} images take {form.nbytes * len(source) / 2**30:.0f} GiB on each device; read them "
            "when they are needed, with --config.data.on_device=False"
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

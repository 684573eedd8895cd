"""The train step of CIFAR-10's network: in both types, then in bfloat16 at doubled batches until the rate is flat."""

import time

import jax

from _machine.job import Job, Row
from _machine.steps import Step, config_of

FLAT = 1.05  # a doubled batch size that is not faster by this factor is the last
MOST = 4096  # images per batch


def measure(job: Job) -> None:
    """Adds a row for each type and batch size for which there is time."""
    batch, begin = 8 if job.small else 128, time.time()
    row = _row(job, job.dtypes[0], batch)
    each = time.time() - begin  # to compile and to measure one
    if _too_late(job, each, job.dtypes[1]):
        return
    _row(job, job.dtypes[1], batch)
    while not job.small and batch < MOST:
        batch *= 2
        if _too_late(job, each, f"a batch of {batch}"):
            return
        rate, row = row["images/s"], _row(job, "bfloat16", batch)
        if not row or row["images/s"] < FLAT * rate:
            job.note(f"a batch of {batch} is not {FLAT - 1:.0%} faster than half of it")
            return


def _too_late(job: Job, seconds: float, what: str) -> bool:
    """Whether these seconds are more than are left; adds a note if they are."""
    if job.left() < 1.2 * seconds:
        job.note(f"no time was left for {what}")
        return True
    return False


def _row(job: Job, dtype: str, batch: int) -> Row:
    """Adds and returns the row of one batch size; the row is empty if the batch does not fit the memory."""
    peak = job.earlier("rates", f"product, {dtype}", "TFLOP/s")
    try:
        figures = Step(config_of("cifar10", dtype=dtype, batch_size=batch)).figures(small=job.small, peak=peak)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        job.note(f"a batch of {batch:,} in {dtype} does not fit the memory")
        return {}
    job.add(f"cifar10, {dtype}, batch {batch}", **figures)
    return figures

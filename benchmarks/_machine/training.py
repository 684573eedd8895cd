"""The train step of CIFAR-10's network: in bfloat16 at growing batches until the rate is flat, then in float32."""

import jax

from _machine.job import Job
from _machine.steps import Step, config_of

FLAT = 1.05  # a doubled batch that gains less is the last


def measure(job: Job) -> None:
    """Adds a row for each type and batch."""
    batch, most, rate = (8, 8, 0.0) if job.small else (128, 4096, 0.0)
    best = batch
    while batch <= most:
        row = _row(job, "bfloat16", batch)
        if not row:
            break
        if row["images/s"] > rate:
            best = batch
        if row["images/s"] < FLAT * rate or job.left() < 0.5 * job.seconds:
            break
        rate, batch = row["images/s"], 2 * batch
    job.note(f"the batch of {best:,} is the fastest in bfloat16 of those tried")
    for batch in dict.fromkeys((best,) if job.small else (128, best)):
        if job.left() < 0.1 * job.seconds:
            job.note("no time was left for float32 at every batch")
            return
        _row(job, "float32", batch)


def _row(job: Job, dtype: str, batch: int) -> dict[str, object]:
    """Adds the row of one batch; empty where it does not fit the memory."""
    peak = job.earlier("rates", f"product, {dtype}", "TFLOP/s")
    try:
        step = Step(config_of("cifar10", dtype=dtype, batch_size=batch))
        figures = step.figures(small=job.small, peak=peak)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        job.note(f"a batch of {batch:,} in {dtype} does not fit the memory")
        return {}
    job.add(f"cifar10, {dtype}, batch {batch}", **figures)
    return figures

"""Our forward pass and train steps beside those of PyTorch in its eager mode, window by window in turn.

Both run in one process, and a ratio is the median over pairs of windows. Where other programs use the processor, the
ratio of the times of a clock still depends on how each side waits for its threads; that of the seconds of the processor
does so less, and on one core (`taskset -c 0 python ...`) not at all.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from _machine import pytorch
from _machine.job import Job
from _machine.steps import Step, config_of
from ddpm_jax import factory
from ddpm_jax.models.convolution import convolution

NUM_PAIRS = 7
WINDOW = 0.5  # seconds; a longer call is a window of its own
DIGITS_BATCH = 64
CONVOLUTIONS = ((32, 128), (16, 256), (8, 256), (4, 256))
"""The sides and channels of the convolutions of CIFAR-10's network, which are most of its time on a CPU."""


class Times(NamedTuple):
    """The mean time of a call in a window."""

    wall: float
    """Seconds of the clock."""
    processor: float
    """Seconds of the processor, of all threads of this process together."""


class Pair(NamedTuple):
    """Medians over the windows."""

    ours: float
    """Seconds per call."""
    theirs: float
    """Seconds per call."""
    ratio: Times
    """Ours over theirs, of neighbouring windows."""


def measure(job: Job) -> None:
    """Adds a row for the forward pass and the train step of CIFAR-10's network, and for the step of the digits.

    On a CPU, where ours are the slower ones, rows for single convolutions show what of it is the library's.
    """
    if not pytorch.is_ready(job):
        return
    dtype, batch = job.dtypes[0], 8 if job.small else 128
    _add(job, f"forward pass of cifar10, {dtype}, batch {batch}", *_forward(batch, dtype))
    if job.left() > 30:
        _add(job, f"train step of cifar10, {dtype}, batch {batch}", *_steps("cifar10", batch, dtype))
    if job.left() > 10:
        _add(job, f"train step of digits, float32, batch {DIGITS_BATCH}", *_steps("digits", DIGITS_BATCH, "float32"))
    for side, channels in CONVOLUTIONS if job.small else ():
        if job.left() > 10:
            what = f"3x3 convolution {side}x{side}, {channels} channels, and its gradients, float32, batch {batch}"
            _add(job, what, *_convolution(batch, side, channels))


def _add(job: Job, what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    pair = in_turn(ours, theirs, num_pairs=NUM_PAIRS, window=WINDOW)
    columns = {"ours, ms": 1000 * pair.ours, "PyTorch, ms": 1000 * pair.theirs, "ours over PyTorch": pair.ratio.wall}
    if job.small:
        columns["in seconds of the processor"] = pair.ratio.processor
    job.add(what, **columns)


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], *, num_pairs: int, window: float) -> Pair:
    """Calls both alternately, each for windows of about so many seconds, after two calls that are not counted."""
    counts = [max(1, round(window / _window(call, 2).wall)) for call in (ours, theirs)]
    windows = [(_window(ours, counts[0]), _window(theirs, counts[1])) for _ in range(num_pairs)]
    ratio = Times(*(statistics.median(a[clock] / b[clock] for a, b in windows) for clock in range(2)))
    return Pair(statistics.median(a.wall for a, _ in windows), statistics.median(b.wall for _, b in windows), ratio)


def _window(call: Callable[[], object], count: int) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    return Times((time.perf_counter() - wall) / count, (time.process_time() - processor) / count)


def _forward(batch: int, dtype: str) -> tuple[Callable[[], object], Callable[[], object]]:
    import torch

    config = config_of("cifar10", dtype=dtype, batch_size=batch)
    model = factory.network(config)
    params = jax.jit(factory.initial_params(config, model))(jax.random.key(0))
    x, t = jnp.zeros((batch, 32, 32, 3)), jnp.zeros(batch)
    apply = jax.jit(lambda params, x, t: model.apply({"params": params}, x, t))
    theirs, wait = pytorch.network("cifar10").eval(), pytorch.waiting()
    images = torch.zeros(batch, 3, 32, 32, device=theirs.device).to(memory_format=torch.channels_last)
    times = torch.zeros(batch, device=theirs.device, dtype=torch.long)

    def call() -> None:
        with torch.no_grad(), torch.autocast(theirs.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            theirs(images, times)
        wait()

    return lambda: jax.block_until_ready(apply(params, x, t)), call


def _convolution(batch: int, side: int, channels: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """One convolution with both gradients, as the networks of both have it."""
    import torch

    images, kernel = jnp.ones((batch, side, side, channels)), jnp.ones((3, 3, channels, channels))

    @jax.jit
    def ours(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        values, pull_back = jax.vjp(lambda x, k: convolution(x, k, (1, 1), "SAME"), images, kernel)
        return values, pull_back(values)

    weights = torch.ones(channels, channels, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    pictures = torch.ones(batch, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def call() -> None:
        values = torch.nn.functional.conv2d(pictures, weights, padding=1)
        values.backward(values.detach())

    return lambda: jax.block_until_ready(ours(images, kernel)), call


def _steps(name: str, batch: int, dtype: str) -> tuple[Callable[[], object], Callable[[], object]]:
    step, wait = Step(config_of(name, dtype=dtype, batch_size=batch)), pytorch.waiting()
    theirs = pytorch.train_step(name, batch, dtype, way="eager")
    return lambda: jax.block_until_ready(step()), lambda: (theirs(), wait())

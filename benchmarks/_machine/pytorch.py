"""The same train step in PyTorch: diffusers' UNet2DModel, channels last, autocast, eager and compiled."""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from _machine.job import Job

if TYPE_CHECKING:
    from diffusers import UNet2DModel

NUM_PARAMETERS = 35_746_307  # of configs/cifar10.py, and of google/ddpm-cifar10-32


WAYS: dict[str, dict[str, Any] | None] = {  # arguments of `torch.compile`, or None for the network as it is
    "eager": None,
    "compiled": {"dynamic": False},
    "compiled, CUDA graphs": {"dynamic": False, "mode": "reduce-overhead"},
}


def measure(job: Job) -> None:
    """Adds a row for each way of running it, with the ratio to ours where that was measured."""
    missing = [name for name in ("torch", "diffusers") if find_spec(name) is None]
    if missing:
        job.note(f"skipped: {' and '.join(missing)} is not installed here")
        return
    import torch

    if not job.small and not torch.cuda.is_available():
        job.note(f"skipped: this PyTorch, {torch.__version__}, has no CUDA")
        return
    job.note(f"PyTorch {torch.__version__} on {_device()}; TF32 and cuDNN's search are on; our step is XLA's default")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX's default precision
    torch.backends.cudnn.benchmark = True
    batch, (first, second) = 8 if job.small else 128, job.dtypes
    plan = [(first, way) for way in WAYS if way != "compiled, CUDA graphs" or not job.small]
    plan += [(second, way) for way in ("eager", "compiled")]
    for dtype, way in plan:
        begin = job.left()
        _add(job, dtype, batch, way)
        if job.left() < begin - job.left():
            job.note("no time was left for the other ways")
            return


def _add(job: Job, dtype: str, batch: int, way: str) -> None:
    """Adds the row of one way, or a note why it cannot be measured."""
    try:
        seconds, ready = _seconds_of_a_step(batch, dtype, way=way, job=job)
    except Exception as error:  # no compiler, no memory, ...
        job.note(f"{way}, {dtype}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
        return
    columns = {"ms/step": 1000 * seconds, "images/s": batch / seconds, "ready after s": ready}
    ours = job.earlier("training", f"cifar10, {dtype}, batch {batch}", "ms/step")
    if ours:
        columns["theirs over ours"] = 1000 * seconds / ours
    job.add(f"PyTorch {way}, {dtype}, batch {batch}", **columns)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"


def _seconds_of_a_step(batch: int, dtype: str, *, way: str, job: Job) -> tuple[float, float]:
    """Median seconds of a train step (loss, gradient, clip, Adam, moving average), and the seconds to prepare it."""
    import torch

    begin, device = time.perf_counter(), "cuda" if torch.cuda.is_available() else "cpu"
    torch._dynamo.reset()  # otherwise the second program of a module is compiled for any batch size
    step = _train_step(batch, dtype, device=device, way=way)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(1 if job.small else 5):
        step()
    wait()
    ready, count = time.perf_counter() - begin, 1 if job.small else 20
    return statistics.median(_window(step, wait, count) for _ in range(3 if job.small else 5)), ready


def _window(step: Callable[[], None], wait: Callable[[], None], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - begin) / count


def _network(device: str) -> "UNet2DModel":
    """Ho et al. 2020's network as diffusers has it, with the settings of google/ddpm-cifar10-32."""
    import torch
    from diffusers import UNet2DModel

    down = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    model = UNet2DModel(
        sample_size=32,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=down,
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=0.1,
    )
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == NUM_PARAMETERS, f"{found:,} parameters"
    return model.to(device, memory_format=torch.channels_last).train()


def _train_step(batch: int, dtype: str, *, device: str, way: str) -> Callable[[], None]:
    """A step like ours, on random images."""
    import torch

    model = _network(device)
    options = WAYS[way]
    call = model if options is None else torch.compile(model, **options)
    parameters = list(model.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=2e-4, fused=True)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)
    images = torch.randint(0, 256, (batch, 3, 32, 32), device=device, dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        x_0 = images.float() / 127.5 - 1
        flip = torch.rand(batch, 1, 1, 1, device=device) < 0.5
        x_0 = torch.where(flip, x_0.flip(3), x_0)
        t = torch.randint(0, 1000, (batch,), device=device)
        noise, level = torch.randn_like(x_0), alpha_bar[t].view(-1, 1, 1, 1)
        x_t = level.sqrt() * x_0 + (1 - level).sqrt() * noise
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            eps = call(x_t, t).sample
        loss = torch.nn.functional.mse_loss(eps.float(), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in parameters], 1e-4)

    return step

"""The same train step in PyTorch: diffusers' UNet2DModel, channels last, autocast, eager and compiled."""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from _machine.job import Job

if TYPE_CHECKING:
    from diffusers import UNet2DModel


class Network(NamedTuple):
    """One of our networks as diffusers has it, and what a train step of its configuration needs besides."""

    num_parameters: int
    """Of ours and of theirs."""
    settings: dict[str, Any]
    """What differs between our networks, as arguments of `UNet2DModel`."""
    learning_rate: float
    ema_decay: float
    random_flip: bool


NETWORKS = {
    "cifar10": Network(  # and google/ddpm-cifar10-32
        35_746_307,
        {
            "sample_size": 32,
            "layers_per_block": 2,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "dropout": 0.1,
        },
        learning_rate=2e-4,
        ema_decay=0.9999,
        random_flip=True,
    ),
    "digits": Network(
        701_345,
        {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "layers_per_block": 1,
            "block_out_channels": (32, 64),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
        },
        learning_rate=1e-3,
        ema_decay=0.995,
        random_flip=False,
    ),
}

WAYS: dict[str, dict[str, Any] | None] = {  # arguments of `torch.compile`, or None for the network as it is
    "eager": None,
    "compiled": {"dynamic": False},
    "compiled, CUDA graphs": {"dynamic": False, "mode": "reduce-overhead"},
}


def measure(job: Job) -> None:
    """Adds a row for each way of running it, with the ratio to ours where that was measured."""
    if not is_ready(job):
        return
    batch, (first, second) = 8 if job.small else 128, job.dtypes
    plan = [(first, way) for way in WAYS if way != "compiled, CUDA graphs" or not job.small]
    plan += [(second, way) for way in ("eager", "compiled")]
    for dtype, way in plan:
        begin = job.left()
        _add(job, dtype, batch, way)
        if job.left() < begin - job.left():
            job.note("no time was left for the other ways")
            return


def is_ready(job: Job) -> bool:
    """Whether PyTorch can be measured on this device, for which it is then set up; adds a note in both cases."""
    missing = [name for name in ("torch", "diffusers") if find_spec(name) is None]
    if missing:
        job.note(f"skipped: {' and '.join(missing)} is not installed here")
        return False
    import torch

    if not job.small and not torch.cuda.is_available():
        job.note(f"skipped: this PyTorch, {torch.__version__}, has no CUDA")
        return False
    job.note(f"PyTorch {torch.__version__} on {_device()}; TF32 and cuDNN's search are on; our step is XLA's default")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX's default precision
    torch.backends.cudnn.benchmark = True
    return True


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

    begin = time.perf_counter()
    torch._dynamo.reset()  # otherwise the second program of a module is compiled for any batch size
    step, wait = train_step("cifar10", batch, dtype, way=way), waiting()
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


def waiting() -> Callable[[], None]:
    """A function that waits until the device has computed everything that was submitted."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def network(name: str) -> "UNet2DModel":
    """The network of this name in `NETWORKS`, on the device, with the details of Ho et al. 2020, in training."""
    import torch
    from diffusers import UNet2DModel

    model = UNet2DModel(
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        **NETWORKS[name].settings,
    )
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == NETWORKS[name].num_parameters, f"{found:,} parameters"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device, memory_format=torch.channels_last).train()


def train_step(name: str, batch: int, dtype: str, *, way: str) -> Callable[[], None]:
    """A step like ours of the network of this name, on random images."""
    import torch

    ours, model, options = NETWORKS[name], network(name), WAYS[way]
    call = model if options is None else torch.compile(model, **options)
    parameters, device = list(model.parameters()), model.device.type
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=ours.learning_rate, fused=True)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)
    shape = (batch, model.config["in_channels"], model.config["sample_size"], model.config["sample_size"])
    images = torch.randint(0, 256, shape, device=device, dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        x_0 = images.float() / 127.5 - 1
        if ours.random_flip:
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
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in parameters], 1 - ours.ema_decay)

    return step

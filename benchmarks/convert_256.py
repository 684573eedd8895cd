"""Converts the 113.7M network of google/ddpm-celebahq-256 from diffusers: time, memory, and the error of the output.

  pip install -r requirements/diffusers.txt
  python benchmarks/convert_256.py

Makes a diffusers folder of that configuration with random weights, converts it in a separate process, and compares one
forward pass of both networks with a batch of one image. google/ddpm-church-256 and -bedroom-256 have the same network.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _root  # noqa: F401
import jax
import numpy as np
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run

if TYPE_CHECKING:
    from diffusers import UNet2DModel

SIZE = flags.DEFINE_integer(
    "image_size", 256, "The height and width of the images in the forward pass.", lower_bound=32
)
SETTINGS: dict[str, Any] = {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}


def network() -> "UNet2DModel":
    """The network of diffusers, with random weights none of which is zero or one."""
    try:
        import torch
        from diffusers import UNet2DModel
    except ImportError as error:
        raise UserError(f"{error}: pip install -r requirements/diffusers.txt") from error
    torch.manual_seed(0)
    unet = UNet2DModel(**SETTINGS).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return unet


def converted(folder: Path, workdir: Path) -> None:
    """Converts in a separate process and prints its time, and the peak memory of all conversions so far."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "ddpm_jax.convert", str(folder), f"--out={workdir}"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"{time.perf_counter() - begin:.1f} s, at most {gigabytes:.2f} GB, {os.cpu_count()} cores", flush=True)


def compare(unet: "UNet2DModel", run: Run, size: int) -> None:
    """Prints the relative error between the two outputs for one noisy image of `size` x `size` pixels."""
    import torch

    x, index = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype(np.float32), np.array([500])
    ours = np.float64(jax.jit(run.model.apply)({"params": run.params}, x, index))
    with torch.no_grad():
        theirs = unet(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(index)).sample.permute(0, 2, 3, 1).numpy()
    print(
        f"relative error of the output at {size}x{size}: {np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.2e}"
    )


def main() -> None:
    """Makes the network, converts it from both kinds of files, and compares the outputs."""
    unet = network()
    print(f"{sum(parameter.numel() for parameter in unet.parameters()):,} parameters", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for safe in (True, False):
            folder, workdir = Path(place) / f"foreign_{safe}", Path(place) / f"run_{safe}"
            unet.save_pretrained(folder, safe_serialization=safe)
            print("safetensors:" if safe else ".bin:", flush=True)
            converted(folder, workdir)
        compare(unet, Run(workdir), SIZE.value)


if __name__ == "__main__":
    cli.run(main, module=__name__)

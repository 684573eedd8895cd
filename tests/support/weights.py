"""Foreign weights for the tests: the recorded networks, and networks of diffusers with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert.incoming import configured, converted, understood
from ddpm_jax.convert.network import Network

if TYPE_CHECKING:
    from diffusers import UNet2DModel

GOLDEN = Path(__file__).parents[1] / "golden"
GIVEN: dict[str, dict[str, Any]] = {  # the settings that cannot be read off the recorded networks' tensors
    "improved_uncond": {"image_size": 8, "num_heads": 4, "time_scale": 1.0},
    "adm_cond": {"image_size": 8, "head_channels": 16},
    "classifier": {"head_channels": 32},
}


def read_golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A recorded network: `(settings, state dict, arrays)`; see golden/README.md."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    weights = safetensors.numpy.load_file(GOLDEN / f"{name}.safetensors")
    return json.loads((GOLDEN / f"{name}.json").read_text()), weights, arrays


def opened(path: Path, **given: Any) -> tuple[ConfigDict, Callable[..., np.ndarray], chex.ArrayTree, Network]:
    """Foreign weights as `(config, network as a jitted function of (x, index, ...), params, foreign Network)`."""
    foreign, _ = understood(path, given)
    config = configured(foreign, experiment("base"), name="converted")
    params, _ = converted(foreign, config, source=path)
    apply = jax.jit(factory.network(config).apply)
    return config, lambda *args: np.asarray(apply({"params": params}, *args)), params, foreign


def assert_agree(what: str, out: ArrayLike, expected: ArrayLike, *, within: float = 1e-5) -> None:
    """Asserts that two outputs are the same up to a relative error, which `pytest -s` shows."""
    out, expected = np.asarray(out, np.float64), np.asarray(expected, np.float64)
    error = np.linalg.norm(out - expected) / np.linalg.norm(expected)
    print(f"\n{what}: relative error {error:.1e}")
    assert error < within


class Foreign(NamedTuple):
    """A network of diffusers: its settings and its weights."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]


PLAIN = "diffusion_pytorch_model.safetensors"


def write(folder: Path, foreign: Foreign, *, name: str = PLAIN, add: float = 0.0, **config: object) -> Path:
    """Writes a network into a folder, with a number added to all weights and other settings; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(foreign.config | config))
    safetensors.numpy.save_file({key: array + np.float32(add) for key, array in foreign.weights.items()}, folder / name)
    return folder


GOOGLE: dict[str, Any] = {  # what the four networks of google/ddpm-* have in common
    "layers_per_block": 2,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
CIFAR10: dict[str, Any] = {
    **GOOGLE,
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
_SMALL: dict[str, Any] = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
SMALL: dict[str, dict[str, Any]] = {  # networks of diffusers that together use all that our networks can express
    "google": {
        **GOOGLE,
        **_SMALL,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "tutorial": {  # diffusers' own defaults: heads of 8 channels, cosines first, symmetric padding
        **_SMALL,
        "layers_per_block": 2,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    },
    "adm": {
        **_SMALL,
        "block_out_channels": (32, 64, 64),
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": 16,
        "attn_norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 5,
    },
}


def random_unet(diffusers: ModuleType, settings: dict[str, Any], *, seed: int = 0) -> "UNet2DModel":
    """A `UNet2DModel` in which no weight is zero or one, so that every layer has an effect."""
    import torch

    torch.manual_seed(seed)
    unet = diffusers.UNet2DModel(**settings).eval()
    for parameter in unet.parameters():
        parameter.requires_grad = False
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return unet


def saved(folder: Path, unet: "UNet2DModel", **scheduler: Any) -> Path:
    """Saves a network and a `DDPMScheduler` of these settings in a folder; returns the folder."""
    from diffusers import DDPMScheduler

    unet.save_pretrained(folder)
    DDPMScheduler(**scheduler).save_pretrained(folder)
    return folder


def theirs(unet: "UNet2DModel", x: np.ndarray, index: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """The output `[B, H, W, C]` of a network of diffusers for x `[B, H, W, C]`, indices `[B]` and labels `[B]`."""
    import torch

    label = None if label is None else torch.tensor(label)
    with torch.no_grad():
        out = unet(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(index), class_labels=label).sample
    return out.permute(0, 2, 3, 1).numpy()

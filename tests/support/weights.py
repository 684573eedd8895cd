"""Foreign weights for the tests: the recorded networks, and networks of diffusers with random weights."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors.numpy

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert.incoming import configured, converted, understood

GOLDEN = Path(__file__).parents[1] / "golden"
GIVEN = {  # what the recorded networks' tensors do not tell
    "improved_uncond": {"image_size": 8, "num_heads": 4, "time_scale": 1.0},
    "adm_cond": {"image_size": 8, "head_channels": 16},
    "classifier": {"head_channels": 32},
}


def read_golden(name):
    """A recorded network: `(settings, state dict, arrays)`; see golden/README.md."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    weights = safetensors.numpy.load_file(GOLDEN / f"{name}.safetensors")
    return json.loads((GOLDEN / f"{name}.json").read_text()), weights, arrays


def opened(path, **given):
    """Foreign weights as `(config, network as a jitted function of (x, index, ...), params, foreign Network)`."""
    foreign, _ = understood(path, given)
    config = configured(foreign, experiment("base"), name="converted")
    params, _ = converted(foreign, config, source=path)
    apply = jax.jit(factory.network(config).apply)
    return config, lambda *args: np.asarray(apply({"params": params}, *args)), params, foreign


def assert_agree(what, out, expected, *, within=1e-5):
    """Two outputs are the same up to a relative error, which `pytest -s` shows."""
    out, expected = np.asarray(out, np.float64), np.asarray(expected, np.float64)
    error = np.linalg.norm(out - expected) / np.linalg.norm(expected)
    print(f"\n{what}: relative error {error:.1e}")
    assert error < within


class Foreign(NamedTuple):
    """A network of diffusers: its settings and its weights."""

    config: dict
    weights: dict


PLAIN = "diffusion_pytorch_model.safetensors"


def write(folder: Path, foreign: Foreign, *, name: str = PLAIN, add: float = 0.0, **config: object) -> Path:
    """The folder with the network in it, to whose weights a number is added."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(foreign.config | config))
    safetensors.numpy.save_file({key: array + np.float32(add) for key, array in foreign.weights.items()}, folder / name)
    return folder


GOOGLE = {  # what the four networks of google/ddpm-* have in common
    "layers_per_block": 2,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
CIFAR10 = {
    **GOOGLE,
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
_SMALL = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
SMALL = {  # networks of diffusers that between them use everything that ours can express
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


def random_unet(diffusers, settings, *, seed=0):
    """A `UNet2DModel` in which no weight is zero or one, so that every layer counts."""
    import torch

    torch.manual_seed(seed)
    unet = diffusers.UNet2DModel(**settings).eval()
    for parameter in unet.parameters():
        parameter.requires_grad = False
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return unet


def saved(folder, unet, **scheduler):
    """The folder with that network and a `DDPMScheduler` of these settings."""
    from diffusers import DDPMScheduler

    unet.save_pretrained(folder)
    DDPMScheduler(**scheduler).save_pretrained(folder)
    return folder


def theirs(unet, x, index, label=None):
    """What a network of diffusers says of x `[B, H, W, C]`, as an array of that form."""
    import torch

    label = None if label is None else torch.tensor(label)
    with torch.no_grad():
        out = unet(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(index), class_labels=label).sample
    return out.permute(0, 2, 3, 1).numpy()

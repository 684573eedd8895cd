"""Reading of a diffusers folder: the settings of its network and scheduler are translated to ours.

The tables serve both directions. A setting that has no counterpart on the other side is refused with the reason. The
timestep of diffusers is the same 0-based index that our networks take. Read next: `outgoing.py`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.convert import folders, schedulers
from ddpm_jax.convert.families import DIFFUSERS, DIFFUSERS_OLD_NAMES
from ddpm_jax.convert.names import StateDict
from ddpm_jax.convert.network import Hints, Network, images
from ddpm_jax.convert.values import (
    COUNT,
    COUNTS,
    FRACTION,
    NAME,
    NAMES,
    Rule,
    check_values,
    or_none,
    ours,
    shown,
    whole,
)
from ddpm_jax.errors import UserError, listed

KIND = "diffusers"
DEFAULTS: dict[str, Any] = {  # of UNet2DModel
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
_FEW_BLOCKS = 100
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
# The settings of diffusers' `EMAModel`, which writes them into the `config.json` of the network that it averages.
_OF_AVERAGES = {
    "decay",
    "min_decay",
    "optimization_step",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
}


def _square(value: Any) -> bool:
    """Whether this is the size of square images: one side, or two equal sides."""
    return whole(value) or (type(value) is list and len(value) == 2 and value[0] == value[1] and whole(value[0]))


# The rules for values that enter computations; the other settings must be one of a few known values.
_VALUES: dict[str, Rule] = {
    "sample_size": or_none((_square, f"{COUNT[1]}, or a pair of equal ones")),
    "in_channels": COUNT,
    "out_channels": COUNT,
    "down_block_types": NAMES,
    "up_block_types": NAMES,
    "block_out_channels": COUNTS,
    "layers_per_block": (lambda value: whole(value, most=100), "a whole number from 1 to 100"),
    "downsample_type": NAME,
    "upsample_type": NAME,
    "dropout": FRACTION,
    "attention_head_dim": or_none(COUNT),
    "norm_num_groups": COUNT,
    "norm_eps": FRACTION,
    "num_class_embeds": or_none(COUNT),
}
# From our values to those of diffusers.
PADDING = {"same": 0, "symmetric": 1}
TIME = {"sin_cos": (False, 1), "cos_sin": (True, 0)}  # flip_sin_to_cos, freq_shift
SCALE_SHIFT = {False: "default", True: "scale_shift"}
# From (attention, resampling inside blocks) to the blocks of the encoder; `up_block` gives those of the decoder.
BLOCKS = {(False, False): "DownBlock2D", (True, False): "AttnDownBlock2D", (False, True): "ResnetDownsampleBlock2D"}


def understood(folder: Path, given: Mapping[str, Any]) -> tuple[Network, list[Path]]:
    """The `Network` in a diffusers folder, and the files that were read.

    Args:
      folder: has `config.json` and weights in it, or in `unet/` or `unet_ema/`; where there are both, these are the
        weights before and after averaging. The scheduler's settings are beside them or in `scheduler/`.
      given: `{flag: value}`; only the size of the images may be needed.

    Raises:
      UserError: a file is missing, or our configuration cannot express the network or its scheduler.
    """
    folder, hints = Path(folder), Hints(given, KIND)
    model, before = folders.models(folder)
    config, averages = _config(model)
    if before and _config(before)[0] != config:
        raise UserError(
            f"{before.config.parent} and {model.config.parent} describe different networks; give one of them"
        )
    settings = _network_settings(config, hints)
    file = folders.scheduler(folder)
    noise, notes = schedulers.settings(
        folders.read_json(file) if file else {},
        size=settings["data.image_size"],
        learned=settings["diffusion.learned_variance"],
    )
    hints.check_all_taken()
    state_dict, read = _weights(model, settings)
    raw, read_before = _weights(before, settings) if before else (None, [])
    if file and folder.absolute() not in file.parents:
        notes.append(f"the scheduler's settings were read from {os.path.relpath(file, folder)}")
    if before:
        notes.append(
            f"the parameters of the last step were read from {before.config.parent.name}/, and the averaged ones from "
            f"{model.config.parent.name}/"
        )
    notes += [note for note in map(folders.variant, filter(None, (model, before))) if note]
    assumed = hints.assumed if file else {**hints.assumed, "scheduler": "Ho et al. 2020's"}
    files = [model.config, *([file] if file else []), *read, *([before.config] if before else []), *read_before]
    settings |= noise | averages
    return Network(KIND, DIFFUSERS, settings, state_dict, raw=raw, assumed=assumed, notes=tuple(notes)), files


def _config(model: folders.Model) -> tuple[dict[str, Any], dict[str, float]]:
    """The diffusers settings of a network, and our settings of its moving average."""
    config = folders.read_json(model.config)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise UserError(f"config.json describes a {shown(config['_class_name'])}; only UNet2DModel is supported")
    decay = config.get("decay")
    averages = {"optim.ema_decay": decay} if type(decay) is float and 0 <= decay < 1 else {}
    unet = {key: value for key, value in config.items() if not key.startswith("_") and key not in _OF_AVERAGES}
    return unet, averages


def _weights(model: folders.Model, settings: Mapping[str, Any]) -> tuple[StateDict, list[Path]]:
    """The state dict with the present names of layers, and the files it was read from."""
    state_dict, files = folders.weights(model)
    blocks = settings["model.num_res_blocks"] * len(settings["model.channel_mult"])
    if blocks > _FEW_BLOCKS + len(state_dict):  # refused before a network of that many is built
        raise UserError(f"{model.config} describes {blocks:,} blocks, but there are only {len(state_dict):,} tensors")
    return _renamed(state_dict), files


def _renamed(state_dict: StateDict) -> dict[str, np.ndarray]:
    """The state dict in which the attention's layers have their present names."""
    pattern = re.compile(rf"(?<=\.)({'|'.join(DIFFUSERS_OLD_NAMES)})(?=\.(weight|bias)$)")
    present = lambda name: pattern.sub(lambda found: DIFFUSERS_OLD_NAMES[found[0]], name)
    return {present(name): array for name, array in state_dict.items()}


def _network_settings(given: dict[str, Any], hints: Hints) -> dict[str, Any]:
    """Our settings for those of a `UNet2DModel`."""
    unknown = [key for key in given if key not in DEFAULTS]
    if unknown:
        raise UserError(f"config.json has settings that no UNet2DModel has: {listed(unknown, most=5)}")
    unet = DEFAULTS | given
    check_values("config.json", unet, _VALUES)
    _check_expressible(unet)
    base, *_ = widths = unet["block_out_channels"]
    size = _side(unet["sample_size"]) or hints.image_size(tuple(width // base for width in widths))
    attends, in_block = _levels(unet)
    return {
        **images(size, channels_in=unet["in_channels"], channels_out=unet["out_channels"]),
        "labels.num_classes": unet["num_class_embeds"] or 0,
        "model.channels": base,
        "model.channel_mult": tuple(width // base for width in widths),
        "model.num_res_blocks": unet["layers_per_block"],
        "model.attention_resolutions": tuple(size >> level for level, attend in enumerate(attends) if attend),
        "model.num_heads": 1,
        "model.head_channels": unet["attention_head_dim"] or 0,
        "model.dropout": unet["dropout"],
        "model.scale_shift_norm": ours(SCALE_SHIFT, unet["resnet_time_scale_shift"], "resnet_time_scale_shift"),
        "model.resample_in_block": in_block,
        "model.padding": ours(PADDING, unet["downsample_padding"], "downsample_padding"),
        "model.time_embedding": ours(
            TIME, (unet["flip_sin_to_cos"], unet["freq_shift"]), "(flip_sin_to_cos, freq_shift)"
        ),
        "model.norm_groups": unet["norm_num_groups"],
        "model.norm_epsilon": unet["norm_eps"],
    }


def _side(size: int | list[int] | None) -> int | None:
    """The side of square images in pixels; None where the size is not given."""
    return size[0] if isinstance(size, list) else size


def _check_expressible(unet: Mapping[str, Any]) -> None:
    """Raises a UserError for settings that ours cannot express; blocks and tables are checked where they are read."""
    for key, fits in _MUST_BE.items():
        if unet[key] not in fits:
            raise UserError(f"config.json: {key}={shown(unet[key])} is not supported, only {fits[0]!r}")
    base, *_ = widths = unet["block_out_channels"]
    if unet["time_embedding_dim"] not in (None, 4 * base) or any(width % base for width in widths):
        time = shown(unet["time_embedding_dim"])
        raise UserError(
            f"config.json: widths {shown(widths)} with time_embedding_dim={time} are not supported: "
            "each width must be a multiple of the first, and time_embedding_dim four times the first"
        )
    groups, scale_shift = unet["attn_norm_num_groups"], unet["resnet_time_scale_shift"] == "scale_shift"
    if groups != unet["norm_num_groups"] and (groups or scale_shift):  # None: no norm in the middle, with scale-shift
        raise UserError("config.json: attn_norm_num_groups must be equal to norm_num_groups; others are not supported")


def _levels(unet: Mapping[str, Any]) -> tuple[list[bool], bool]:
    """For each level whether it has attention, and for all together whether they resample inside residual blocks."""
    down, up = unet["down_block_types"], list(reversed(unet["up_block_types"]))
    resnet = {"conv": False, "resnet": True}
    attends: list[bool] = []
    in_block: list[bool] = []
    for level, name in enumerate(down):
        kinds = {block: kind for kind, block in BLOCKS.items()}
        if name not in kinds or up[level : level + 1] != [up_block(name)]:
            raise UserError(
                f"config.json: down_block_types={shown(down)} with up_block_types={shown(up[::-1])} is not supported"
            )
        attend, inside = kinds[name]
        attends.append(attend)
        if attend:
            types = {resnet.get(unet["downsample_type"]), resnet.get(unet["upsample_type"])}
            inside = types == {True}
            if len(types) > 1 or None in types:
                raise UserError("config.json: downsample_type and upsample_type must be both conv or both resnet")
        if level < len(down) - 1:
            in_block.append(inside)
    if len(set(in_block)) > 1:
        raise UserError(
            "config.json: some levels resample inside blocks and some by a convolution, which is not supported"
        )
    return attends, bool(in_block and in_block[0])


def up_block(block: str) -> str:
    """The name of the decoder's block that corresponds to a block of the encoder."""
    return block.replace("Downsample", "Upsample").replace("Down", "Up")

"""OpenAI's networks: the architecture is read from the tensors' names and shapes, the rest comes from flags.

The tensors determine widths, levels, blocks, attention, classes, learned variance and how the time enters. They do not
determine the attention heads, the size of the images, or the diffusion process; for those, the values of the published
models are assumed (Nichol & Dhariwal 2021, Dhariwal & Nichol 2021), which flags override. Read next: `ho.py`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from ddpm_jax.convert.families import OPENAI
from ddpm_jax.convert.names import Shapes, StateDict
from ddpm_jax.convert.network import Hints, Network, diffusion, images, multiples
from ddpm_jax.errors import UserError

KIND = "improved or guided diffusion"
_FAMILY: dict[str, Any] = {"model.padding": "symmetric", "model.time_embedding": "cos_sin", "model.norm_epsilon": 1e-5}


def understood(state_dict: StateDict, given: Mapping[str, Any]) -> Network:
    """The `Network` that a state dict belongs to.

    Args:
      state_dict: tensors with `input_blocks.0.0.weight` among them.
      given: `{flag: value}` for what the tensors do not determine.

    Raises:
      UserError: the tensors are not those of such a network, or our configuration cannot express it.
    """
    hints = Hints(given, KIND)
    shapes = {name: array.shape for name, array in state_dict.items()}
    try:
        settings = _settings(shapes, hints)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"the tensors are not those of an {KIND} network: {error} does not fit") from error
    interleaved = hints.take("attention_order", "interleaved") == "interleaved"
    hints.check_all_taken()
    return Network(KIND, OPENAI, settings, state_dict, assumed=hints.assumed, interleaved=interleaved)


def _settings(shapes: Shapes, hints: Hints) -> dict[str, Any]:
    """The settings; raises a KeyError where a tensor that every such network has is missing."""
    first, channels_in, *_ = shapes["input_blocks.0.0.weight"]
    base = shapes["time_embed.0.weight"][1]
    if first != base:
        raise UserError(f"the first level has {first} channels, but the time embedding {base}: they must be equal")
    in_block = not any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name) for name in shapes)
    size, (widths, attends) = _blocks_a_level(shapes, in_block), _down_path(shapes)
    starts = range(0, len(widths), size)
    channel_mult = multiples([widths[start] for start in starts], base)
    scale_shift = shapes["middle_block.0.emb_layers.1.bias"][0] == 2 * widths[-1]
    settings: dict[str, Any] = {
        **_FAMILY,
        "model.channels": base,
        "model.channel_mult": channel_mult,
        "model.num_res_blocks": size - 1,
        "model.scale_shift_norm": scale_shift,
        "model.resample_in_block": in_block,
        "model.dropout": 0.0,
        "labels.num_classes": shapes.get("label_emb.weight", (0,))[0],
    }
    settings |= _heads(hints, in_block=in_block, scale_shift=scale_shift)
    if "out.2.c_proj.weight" in shapes:
        settings |= _classifier(shapes, hints, channels_in, len(channel_mult))
    else:
        channels = {"channels_in": channels_in, "channels_out": shapes["out.2.weight"][0]}
        settings |= images(hints.image_size(channel_mult), **channels)
        settings["sample.variance"] = "learned" if settings["diffusion.learned_variance"] else "large"
    pixels = settings["data.image_size"]
    settings["model.attention_resolutions"] = tuple(
        pixels >> level for level, start in enumerate(starts) if attends[start]
    )
    improved = not in_block
    small = pixels <= 64
    settings |= diffusion(
        hints, schedule="cosine" if small else "linear", num_timesteps=4000 if small and improved else 1000
    )
    # The unconditional networks of improved diffusion are given times from 0 to 1000, whatever T is.
    scale = 1000 / settings["diffusion.num_timesteps"] if improved and not settings["labels.num_classes"] else 1.0
    return {**settings, "model.time_scale": hints.take("time_scale", scale)}


def _heads(hints: Hints, *, in_block: bool, scale_shift: bool) -> dict[str, int]:
    """The settings of the attention heads.

    Without flags, a head has 64 channels in guided diffusion; improved diffusion has 4 heads, its LSUN models have 1.
    """
    if hints.given("num_heads", "head_channels"):
        heads = [hints.take(name, 0) if hints.given(name) else None for name in ("num_heads", "head_channels")]
        if None not in heads:
            raise UserError("num_heads and head_channels exclude each other: give only one of them")
    elif in_block:
        heads = None, hints.take("head_channels", 64)
    else:
        heads = hints.take("num_heads", 4 if scale_shift else 1), None
    return {"model.num_heads": heads[0] or 1, "model.head_channels": heads[1] or 0}


def _classifier(shapes: Shapes, hints: Hints, channels: int, levels: int) -> dict[str, Any]:
    """The settings of a classifier.

    Its attention pool has one row for each pixel of the coarsest level and one for their mean.
    """
    side = math.isqrt(shapes["out.2.positional_embedding"][1] - 1) << (levels - 1)
    if hints.given("image_size") and (given := hints.take("image_size", 0)) != side:
        raise UserError(f"image_size={given} does not fit the classifier's tensors, which are for {side}")
    return {
        "task": "classify",
        "data.image_size": side,
        "data.channels": channels,
        "labels.num_classes": shapes["out.2.c_proj.bias"][0],
        "log.preview_every": 0,
    }


def _down_path(shapes: Shapes) -> tuple[list[int], list[bool]]:
    """The width of each block of the encoder, and whether attention follows it; resamplings count as blocks."""
    widths: list[int] = []
    attends: list[bool] = []
    places = {".".join(name.split(".")[:2]) for name in shapes}
    while (place := f"input_blocks.{len(widths) + 1}") in places:
        layer = "op" if f"{place}.0.op.bias" in shapes else "out_layers.3"
        widths.append(shapes[f"{place}.0.{layer}.bias"][0])
        attends.append(f"{place}.1.qkv.weight" in shapes)
    return widths, attends


def _blocks_a_level(shapes: Shapes, in_block: bool) -> int:
    """The number of blocks per level of the encoder, including the level's resampling.

    The names of a U-Net's decoder show where it resamples. A classifier has only an encoder, in which the width and the
    attention are the same within a level, and no attention follows a resampling.
    """
    widths, attends = _down_path(shapes)
    resampling = "in_layers.0" if in_block else "conv"
    for n in range(len(widths)):
        if any(f"output_blocks.{n}.{place}.{resampling}.weight" in shapes for place in (1, 2)):
            return n + 1
    if "output_blocks.0.0.in_layers.0.weight" in shapes:
        return len(widths) + 1

    def fits(size: int) -> bool:
        levels = [range(start, start + size - 1) for start in range(0, len(widths), size)]
        same = all(len({(widths[i], attends[i]) for i in level}) == 1 for level in levels)
        return same and not any(attends[size - 1 :: size])

    fitting = [size for size in range(2, len(widths) + 2) if (len(widths) + 1) % size == 0 and fits(size)]
    if not fitting:
        raise ValueError(f"an encoder with the widths {widths}")
    return fitting[0]

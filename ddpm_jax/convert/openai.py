"""OpenAI's networks: the architecture as the tensors' names and shapes tell it, the rest from flags.

Tensors tell widths, levels, blocks, attention, classes, learned variance and how the time enters. They do not tell the
attention heads, the size of the images, nor anything of the diffusion; for those the published models' values stand in
(Nichol & Dhariwal 2021, Dhariwal & Nichol 2021), which flags override. Read next: `ho.py`.
"""

import math
import re

from ddpm_jax.convert.families import OPENAI
from ddpm_jax.convert.network import Hints, Network, diffusion, images, multiples
from ddpm_jax.errors import UserError

KIND = "improved or guided diffusion"
_FAMILY = {"model.padding": "symmetric", "model.time_embedding": "cos_sin", "model.norm_epsilon": 1e-5}


def understood(state_dict, given):
    """The `Network` of a state dict.

    Args:
      state_dict: `{name: array}` with `input_blocks.0.0.weight`.
      given: `{flag: value}` of what the tensors do not tell.

    Raises:
      UserError: it is none of these networks, or one that ours cannot express.
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


def _settings(shapes, hints):
    """The settings; KeyError where a tensor that every such network has is missing."""
    first, channels_in, *_ = shapes["input_blocks.0.0.weight"]
    base = shapes["time_embed.0.weight"][1]
    if first != base:
        raise UserError(f"the first level is {first} channels wide and the time has {base}: ours has one base width")
    in_block = not any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name) for name in shapes)
    size, (widths, attends) = _blocks_a_level(shapes, in_block), _down_path(shapes)
    starts = range(0, len(widths), size)
    channel_mult = multiples([widths[start] for start in starts], base)
    scale_shift = shapes["middle_block.0.emb_layers.1.bias"][0] == 2 * widths[-1]
    settings = {
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
    # Improved diffusion tells its unconditional networks times from 0 to 1000 whatever T is.
    scale = 1000 / settings["diffusion.num_timesteps"] if improved and not settings["labels.num_classes"] else 1.0
    return {**settings, "model.time_scale": hints.take("time_scale", scale)}


def _heads(hints, *, in_block, scale_shift):
    """Attention heads: 64 channels each in guided diffusion; 4 in improved diffusion, 1 in its LSUN models."""
    if hints.given("num_heads", "head_channels"):
        heads = [hints.take(name, 0) if hints.given(name) else None for name in ("num_heads", "head_channels")]
        if None not in heads:
            raise UserError("--num_heads and --head_channels are two ways to say one thing: give one of them")
    elif in_block:
        heads = None, hints.take("head_channels", 64)
    else:
        heads = hints.take("num_heads", 4 if scale_shift else 1), None
    return {"model.num_heads": heads[0] or 1, "model.head_channels": heads[1] or 0}


def _classifier(shapes, hints, channels, levels):
    """The settings of a classifier, whose pool has a row for each pixel at the bottom and one for their mean."""
    side = math.isqrt(shapes["out.2.positional_embedding"][1] - 1) << (levels - 1)
    if hints.given("image_size") and (given := hints.take("image_size", 0)) != side:
        raise UserError(f"--image_size={given}: the classifier's tensors say {side}")
    return {
        "task": "classify",
        "data.image_size": side,
        "data.channels": channels,
        "labels.num_classes": shapes["out.2.c_proj.bias"][0],
        "log.preview_every": 0,
    }


def _down_path(shapes):
    """Widths and places of attention of all blocks on the way down, resamplings included, in two lists."""
    widths, attends = [], []
    places = {".".join(name.split(".")[:2]) for name in shapes}
    while (place := f"input_blocks.{len(widths) + 1}") in places:
        layer = "op" if f"{place}.0.op.bias" in shapes else "out_layers.3"
        widths.append(shapes[f"{place}.0.{layer}.bias"][0])
        attends.append(f"{place}.1.qkv.weight" in shapes)
    return widths, attends


def _blocks_a_level(shapes, in_block):
    """Blocks of a level on the way down, its resampling included.

    On the way up a U-Net shows its resamplings. A classifier has only the way down, where width and attention are the
    same within a level, and a resampling has no attention.
    """
    widths, attends = _down_path(shapes)
    resampling = "in_layers.0" if in_block else "conv"
    for n in range(len(widths)):
        if any(f"output_blocks.{n}.{place}.{resampling}.weight" in shapes for place in (1, 2)):
            return n + 1
    if "output_blocks.0.0.in_layers.0.weight" in shapes:
        return len(widths) + 1

    def fits(size):
        levels = [range(start, start + size - 1) for start in range(0, len(widths), size)]
        same = all(len({(widths[i], attends[i]) for i in level}) == 1 for level in levels)
        return same and not any(attends[size - 1 :: size])

    fitting = [size for size in range(2, len(widths) + 2) if (len(widths) + 1) % size == 0 and fits(size)]
    if not fitting:
        raise ValueError(f"a way down of widths {widths}")
    return fitting[0]

"""Ho et al. 2020's weights as re-published for PyTorch with DDIM's code (`.ckpt`), and DDIM's own.

The file is a state dict, or a list whose first item is a state dict and whose last is that of the averaged weights. The
family has one attention head, sines before cosines in the time embedding, and (0, 1) padding; its tensors determine the
rest. Read next: `diffusers.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

from ddpm_jax.convert.families import HO
from ddpm_jax.convert.names import Shapes, StateDict
from ddpm_jax.convert.network import Hints, Network, diffusion, images, multiples
from ddpm_jax.errors import UserError

KIND = "Ho et al.'s"


def understood(state_dict: StateDict, given: Mapping[str, Any], *, raw: StateDict | None = None) -> Network:
    """The `Network` that a state dict with `temb.dense.0.weight` belongs to.

    Args:
      state_dict: the weights to sample with.
      given: `{flag: value}` for what the tensors do not determine.
      raw: the weights before averaging, or None.

    Raises:
      UserError: the tensors are not those of such a network, or our configuration cannot express it.
    """
    hints = Hints(given, KIND)
    shapes = {name: array.shape for name, array in state_dict.items()}
    try:
        settings = _settings(shapes, hints)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"the tensors are not those of {KIND} network: {error} does not fit") from error
    hints.check_all_taken()
    return Network(KIND, HO, settings, state_dict, raw=raw, assumed=hints.assumed)


def _settings(shapes: Shapes, hints: Hints) -> dict[str, Any]:
    """The settings; raises a KeyError where a tensor that every such network has is missing."""
    base, channels_in, *_ = shapes["conv_in.weight"]
    levels = 1 + max(int(found[1]) for found in map(re.compile(r"down\.(\d+)\.").match, shapes) if found)
    blocks = sum(bool(re.fullmatch(r"down\.0\.block\.\d+\.conv1\.weight", name)) for name in shapes)
    channel_mult = multiples([shapes[f"down.{level}.block.0.conv1.weight"][0] for level in range(levels)], base)
    size = hints.image_size(channel_mult)
    settings = images(size, channels_in=channels_in, channels_out=shapes["conv_out.weight"][0])
    attends = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in shapes]
    variance = "large" if size <= 64 else "small"
    return {
        **settings,
        **diffusion(hints, schedule="linear", num_timesteps=1000),
        "model.channels": base,
        "model.channel_mult": channel_mult,
        "model.num_res_blocks": blocks,
        "model.attention_resolutions": tuple(size >> level for level in attends),
        "model.dropout": 0.0,
        "sample.variance": "learned" if settings["diffusion.learned_variance"] else variance,
    }

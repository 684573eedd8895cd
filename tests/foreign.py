"""Weights of the OpenAI family (improved and guided diffusion) as parameters of our networks: tables of names.

A foreign network is a flat list of blocks, each a list of modules, so that `input_blocks.3.1.qkv` is a layer of
module 1 of block 3; ours is a tree of levels. `layers` pairs the names of one network, `parameters` moves the weights.
"""

import json
from pathlib import Path

import numpy as np

from ddpm_jax.models import Architecture

GOLDEN = Path(__file__).parent / "golden"

# Foreign layer: our layer, within the network and within each kind of module.
NETWORK = {
    "time_embed.0": "embedding.dense_0",
    "time_embed.2": "embedding.dense_1",
    "label_emb": "embedding.label",
    "input_blocks.0.0": "encoder.conv_in",
    "out.0": "norm_out",
    "out.2": "conv_out",
    "out.2.qkv_proj": ("pool.query", "pool.key", "pool.value"),
    "out.2.c_proj": "pool.out",
}
RES_BLOCK = {
    "in_layers.0": "norm_0",
    "in_layers.2": "conv_0",
    "emb_layers.1": "emb",
    "out_layers.0": "norm_1",
    "out_layers.3": "conv_1",
    "skip_connection": "shortcut",
}
ATTENTION = {"norm": "norm", "qkv": ("query", "key", "value"), "proj_out": "out"}
DOWNSAMPLE = {"op": "conv"}
UPSAMPLE = {"conv": "conv"}


def modules(arch, height):
    """The blocks' modules in their order: `(foreign name, our name, table of its layers)`.

    Args:
      arch: `Architecture`.
      height: of the image in pixels, which says where attention is.
    """
    levels, each, n = range(len(arch.channel_mult)), arch.num_res_blocks, 0
    attend = [height >> level in arch.attention_resolutions for level in levels]
    for level in levels:
        for i in range(each):
            n += 1
            yield from _block(f"input_blocks.{n}", 0, f"encoder.level_{level}_block_{i}", attend[level])
        if level < levels[-1]:
            n += 1
            yield f"input_blocks.{n}.0", f"encoder.level_{level}_down", _resampling(arch, DOWNSAMPLE)
    yield from _block("middle_block", 0, "middle.block_0", True)
    yield from _block("middle_block", 2, "middle.block_1", False)
    n = -1
    for level in reversed(levels):
        for i in range(each + 1):
            n += 1
            yield from _block(f"output_blocks.{n}", 0, f"decoder.level_{level}_block_{i}", attend[level])
        if level:
            # The resampling joins the level's last block, behind its attention if there is any.
            yield f"output_blocks.{n}.{1 + attend[level]}", f"decoder.level_{level}_up", _resampling(arch, UPSAMPLE)


def _block(foreign, place, ours, attend):
    """A residual block at a place of a foreign block, and the attention after it."""
    yield f"{foreign}.{place}", ours, RES_BLOCK
    if attend:
        yield f"{foreign}.{place + 1}", f"{ours}_attention", ATTENTION


def _resampling(arch, convolution):
    """The layers of a module that resamples."""
    return RES_BLOCK if arch.resample_in_block else convolution


def layers(arch, height):
    """The names of a U-Net and a classifier, `{foreign layer: our layer}`; the fused qkv maps to a tuple of three."""
    names = dict(NETWORK)
    for foreign, ours, table in modules(arch, height):
        for layer, target in table.items():
            inside = tuple(f"{ours}.{t}" for t in target) if isinstance(target, tuple) else f"{ours}.{target}"
            names[f"{foreign}.{layer}"] = inside
    return names


def parameters(state_dict, arch, height):
    """A foreign state dict as our parameter tree.

    Raises:
      KeyError: a weight whose layer our network has not.
    """
    names, params = layers(arch, height), {}
    for name, array in state_dict.items():
        layer, _, kind = name.rpartition(".")
        if kind == "positional_embedding":
            _put(params, "pool", "embedding", array.T)
            continue
        target = names[layer]
        if isinstance(target, tuple):
            # The pool's rows, unlike those of the blocks, run over (which of three, head, channel).
            parts = np.split(array, 3) if layer == "out.2.qkv_proj" else _split_heads(array, arch)
            for one, part in zip(target, parts, strict=True):
                _put(params, one, *_leaf(kind, part))
        elif layer == "label_emb":
            _put(params, target, "embedding", array)
        else:
            _put(params, target, *_leaf(kind, array))
    return params


def _split_heads(qkv, arch):
    """Query, key and value `[C, ...]` of a fused `[3 C, ...]`, whose rows run over (head, which of three, channel)."""
    width = len(qkv) // 3
    heads = arch.heads(width)
    parts = qkv.reshape(heads, 3, width // heads, *qkv.shape[1:])
    return [parts[:, i].reshape(width, *qkv.shape[1:]) for i in range(3)]


def _leaf(kind, array):
    """Our name and layout: OIHW to HWIO, OI to IO; a 1x1 convolution is a linear map of the channels."""
    if kind == "bias":
        return kind, array
    if array.ndim == 1:
        return "scale", array
    if array[0, 0].size == 1:
        array = array.reshape(array.shape[:2])
    return "kernel", np.moveaxis(array, (0, 1), (-1, -2))


def _put(tree, path, leaf, value):
    """Sets a leaf of a nested dict, making the dicts on the way."""
    for part in path.split("."):
        tree = tree.setdefault(part, {})
    tree[leaf] = value


def architecture(settings):
    """The `Architecture` of the family's constructor settings, with its defaults."""
    return Architecture(
        channels=settings["model_channels"],
        channel_mult=tuple(settings["channel_mult"]),
        num_res_blocks=settings["num_res_blocks"],
        # The family counts attention by how often the image is halved, not by pixels.
        attention_resolutions=tuple(settings["image_size"] // rate for rate in settings["attention_resolutions"]),
        num_heads=settings.get("num_heads", 1),
        head_channels=settings.get("num_head_channels", 0),
        dropout=settings.get("dropout", 0.0),
        scale_shift_norm=settings["use_scale_shift_norm"],
        resample_in_block=settings["resblock_updown"],
        padding="symmetric",
        time_embedding="cos_sin",
        norm_epsilon=1e-5,
    )


def read_golden(name):
    """A recorded network: `(settings, state dict, arrays)`; see golden/README.md."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    return json.loads((GOLDEN / f"{name}.json").read_text()), read_safetensors(GOLDEN / f"{name}.safetensors"), arrays


def read_safetensors(path):
    """The float32 arrays of a safetensors file: eight bytes of header length, a JSON header, raw little-endian data."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        first, last = entry["data_offsets"]
        arrays[name] = np.frombuffer(content[start + first : start + last], "<f4").reshape(entry["shape"])
    return arrays

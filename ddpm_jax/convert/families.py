"""The tables of names: where each family has the counterparts of our modules, and how it names their layers.

`OPENAI` is improved diffusion (Nichol & Dhariwal 2021) and guided diffusion (Dhariwal & Nichol 2021), U-Nets and
classifiers; `DIFFUSERS` is `UNet2DModel`; `HO` is Ho et al. 2020's weights as re-published for PyTorch. Read next:
`loader.py`.
"""

from ddpm_jax.convert.names import Family

_OPENAI_BLOCK = {
    "norm_0": "in_layers.0",
    "conv_0": "in_layers.2",
    "emb": "emb_layers.1",
    "norm_1": "out_layers.0",
    "conv_1": "out_layers.3",
    "shortcut": "skip_connection",
}
_OPENAI_ATTENTION = {"norm": "norm", "query": "qkv", "key": "qkv", "value": "qkv", "out": "proj_out"}
_OPENAI_NETWORK = {
    "embedding.dense_0": "time_embed.0",
    "embedding.dense_1": "time_embed.2",
    "embedding.label": "label_emb",
    "encoder.conv_in": "input_blocks.0.0",
    "norm_out": "out.0",
    "conv_out": "out.2",
    "pool.embedding": "out.2.positional_embedding",
    "pool.query": "out.2.qkv_proj",
    "pool.key": "out.2.qkv_proj",
    "pool.value": "out.2.qkv_proj",
    "pool.out": "out.2.c_proj",
}
OPENAI = Family(
    modules={
        "": ("", _OPENAI_NETWORK),
        "encoder.block": ("input_blocks.{down}.0", _OPENAI_BLOCK),
        "encoder.block_attention": ("input_blocks.{down}.1", _OPENAI_ATTENTION),
        "encoder.down": ("input_blocks.{down}.0", {**_OPENAI_BLOCK, "conv": "op"}),
        "middle.block_0": ("middle_block.0", _OPENAI_BLOCK),
        "middle.block_0_attention": ("middle_block.1", _OPENAI_ATTENTION),
        "middle.block_1": ("middle_block.2", _OPENAI_BLOCK),
        "decoder.block": ("output_blocks.{up}.0", _OPENAI_BLOCK),
        "decoder.block_attention": ("output_blocks.{up}.1", _OPENAI_ATTENTION),
        "decoder.up": ("output_blocks.{up}.{behind}", {**_OPENAI_BLOCK, "conv": "conv"}),
    },
    axes={"shortcut": 2, "query": 1, "key": 1, "value": 1, "out": 1},
)

_DIFFUSERS_BLOCK = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "emb": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
}
_DIFFUSERS_ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
_DIFFUSERS_NETWORK = {
    "embedding.dense_0": "time_embedding.linear_1",
    "embedding.dense_1": "time_embedding.linear_2",
    "embedding.label": "class_embedding",
    "encoder.conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
DIFFUSERS = Family(
    modules={
        "": ("", _DIFFUSERS_NETWORK),
        "encoder.block": ("down_blocks.{level}.resnets.{block}", _DIFFUSERS_BLOCK),
        "encoder.block_attention": ("down_blocks.{level}.attentions.{block}", _DIFFUSERS_ATTENTION),
        "encoder.down": ("down_blocks.{level}.downsamplers.0", {**_DIFFUSERS_BLOCK, "conv": "conv"}),
        "middle.block_0": ("mid_block.resnets.0", _DIFFUSERS_BLOCK),
        "middle.block_0_attention": ("mid_block.attentions.0", _DIFFUSERS_ATTENTION),
        "middle.block_1": ("mid_block.resnets.1", _DIFFUSERS_BLOCK),
        "decoder.block": ("up_blocks.{below}.resnets.{block}", _DIFFUSERS_BLOCK),
        "decoder.block_attention": ("up_blocks.{below}.attentions.{block}", _DIFFUSERS_ATTENTION),
        "decoder.up": ("up_blocks.{below}.upsamplers.0", {**_DIFFUSERS_BLOCK, "conv": "conv"}),
    },
    axes={"shortcut": 2},
)
# The names of an attention's layers in diffusers before 0.13, which the files of google/ddpm-* still have.
DIFFUSERS_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_HO_BLOCK = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "emb": "temb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "nin_shortcut",
}
_HO_ATTENTION = {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
_HO_NETWORK = {
    "embedding.dense_0": "temb.dense.0",
    "embedding.dense_1": "temb.dense.1",
    "encoder.conv_in": "conv_in",
    "norm_out": "norm_out",
    "conv_out": "conv_out",
}
HO = Family(
    modules={
        "": ("", _HO_NETWORK),
        "encoder.block": ("down.{level}.block.{block}", _HO_BLOCK),
        "encoder.block_attention": ("down.{level}.attn.{block}", _HO_ATTENTION),
        "encoder.down": ("down.{level}.downsample", {"conv": "conv"}),
        "middle.block_0": ("mid.block_1", _HO_BLOCK),
        "middle.block_0_attention": ("mid.attn_1", _HO_ATTENTION),
        "middle.block_1": ("mid.block_2", _HO_BLOCK),
        "decoder.block": ("up.{level}.block.{block}", _HO_BLOCK),
        "decoder.block_attention": ("up.{level}.attn.{block}", _HO_ATTENTION),
        "decoder.up": ("up.{level}.upsample", {"conv": "conv"}),
    },
    axes={"shortcut": 2, "query": 2, "key": 2, "value": 2, "out": 2},
)

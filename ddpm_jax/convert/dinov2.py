"""The published weights of DINOv2 (`dinov2_vitb14_pretrain.pth`, `dinov2_vitl14_pretrain.pth`) as our network.

The files are at `https://dl.fbaipublicfiles.com/dinov2/NAME/NAME_pretrain.pth`, for example with NAME
`dinov2_vitl14`. Read next: `names.py`.
"""

import math
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.convert.files import is_state_dict, read_weights, sha256
from ddpm_jax.convert.loader import parameters
from ddpm_jax.convert.names import StateDict, Tensor, flat
from ddpm_jax.errors import UserError, listed
from ddpm_jax.models.dinov2 import PATCH, DINOv2
from ddpm_jax.runtime.paths import local_path

PUBLISHED = {
    "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73": "dinov2_vitb14",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428": "dinov2_vitl14",
}
"""The names of the published networks by the SHA-256 of their files."""

_HEAD = 64  # channels of an attention head, in every published network
_LAYERS = {
    "patches": "patch_embed.proj",
    "norm_0": "norm1",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "norm_1": "norm2",
    "dense_0": "mlp.fc1",
    "dense_1": "mlp.fc2",
    "norm": "norm",
}
_TENSORS = {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "scale_0": "ls1.gamma",
    "scale_1": "ls2.gamma",
}
_UNUSED = "mask_token"  # which replaces patches in training alone


class Weights(NamedTuple):
    """A feature network with its weights.

    Attributes:
      network: the module.
      params: its parameters, float32.
      sha256: the digest of the file, in hexadecimal.
      name: the name of the published network, or None for weights that are not those of a published file.
    """

    network: DINOv2
    params: dict[str, Any]
    sha256: str
    name: str | None


def read_dinov2(path: str | os.PathLike[str]) -> Weights:
    """The network in a file of DINOv2's weights, whose tensors are all accounted for; no code in it is run.

    Width, depth and the grid of the positions follow from the shapes of the tensors, and a head has 64 channels.

    Args:
      path: a file with the names and shapes of `dinov2_vitb14_pretrain.pth`, in PyTorch's or the safetensors format.

    Raises:
      UserError: the file cannot be read, or has other weights.
    """
    path = local_path(path)
    content = read_weights(path)
    network = _network(content) if is_state_dict(content) else None
    if network is None:
        has = (
            f"its first tensors are {listed(list(content)[:3])}"
            if is_state_dict(content)
            else "it does not contain a state dict"
        )
        raise UserError(
            f"{path} has no weights of DINOv2 ({has}); give dinov2_vitb14_pretrain.pth or dinov2_vitl14_pretrain.pth"
        )
    used = {name: array for name, array in content.items() if name != _UNUSED}
    source = f"{path}, read as DINOv2 of width {network.width} and depth {network.depth},"
    params = parameters(used, _table(network), source=source)
    digest = sha256(path)
    return Weights(network, params, digest, PUBLISHED.get(digest))


def _network(state_dict: StateDict) -> DINOv2 | None:
    """The network whose position embedding and blocks these are, or None if they are not of this family."""
    positions = state_dict.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return None
    _, tokens, width = positions.shape
    grid = math.isqrt(max(tokens - 1, 0))
    depth = len({block[1] for block in map(re.compile(r"blocks\.(\d+)\.").match, state_dict) if block})
    if depth == 0 or grid == 0 or tokens != 1 + grid**2 or width == 0 or width % _HEAD:
        return None
    return DINOv2(width=width, depth=depth, heads=width // _HEAD, grid=grid)


def _table(network: DINOv2) -> list[Tensor]:
    """The tensors that the file of a network has, except the unused one."""
    image = jnp.zeros((1, PATCH, PATCH, 3))
    leaves = flat(jax.eval_shape(network.init, jax.random.key(0), image)["params"])
    return [
        Tensor(_name(path), {path: leaf.shape}, kernel=path.endswith(".kernel"), axes=0, heads=1)
        for path, leaf in leaves.items()
    ]


def _name(path: str) -> str:
    """The published name of the tensor that holds one of our leaves."""
    block = re.match(r"block_(\d+)\.", path)
    prefix, path = (f"blocks.{block[1]}.", path[block.end() :]) if block else ("", path)
    if path in _TENSORS:
        return prefix + _TENSORS[path]
    layer, _, leaf = path.rpartition(".")
    return f"{prefix}{_LAYERS[layer]}.{'bias' if leaf == 'bias' else 'weight'}"

"""A small DINOv2 network whose weights and images are drawn from their names, for the tests; see golden/README.md."""

import math
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy

WIDTH, DEPTH, HEADS, GRID = 128, 2, 2, 7
SIZES = ((98, 98), (56, 56), (56, 98))  # the grid of the position embedding, a smaller one, one that shares an axis


def shapes(width: int = WIDTH, depth: int = DEPTH, grid: int = GRID) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a published file."""
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "ls1.gamma": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
        "ls2.gamma": (width,),
    }
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        **{f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()},
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that the name determines, float64."""
    return np.random.default_rng([1, zlib.crc32(name.encode())]).standard_normal(shape)


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of the network, float32.

    Tokens are small, so that the epsilon of the norms matters, and queries and keys large, so that attention does.
    """
    z = normal(name, shape)
    if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")):
        z = 1 + 0.1 * z
    elif name.endswith("weight"):
        gain = 0.02 if name.startswith("patch") else 2.0 if "qkv" in name else 1.0
        z *= gain / math.sqrt(math.prod(shape[1:]))
    else:
        z *= 0.1 if name.startswith("blocks.") or name == "norm.bias" else 0.02
    return z.astype(np.float32)


def state_dict(**sizes: int) -> dict[str, np.ndarray]:
    """The tensors of a network, by the arguments of `shapes`."""
    return {name: drawn(name, shape) for name, shape in shapes(**sizes).items()}


def images(height: int, width: int) -> np.ndarray:
    """Two normalised images `[2, H, W, 3]`, float32."""
    return normal(f"{height}x{width}", (2, height, width, 3)).astype(np.float32)


def write(path: Path, **tensors: np.ndarray | None) -> Path:
    """Writes the network as a safetensors file; tensors are added or replaced by those given, or left out by None."""
    changed = {name: array for name, array in (state_dict() | tensors).items() if array is not None}
    safetensors.numpy.save_file(changed, path)
    return path

"""How a table of names maps each foreign tensor to the leaves of our parameters, and in which layout.

Our tree of parameters is walked, not the foreign network: a leaf `encoder.level_1_block_0.conv_0.kernel` is layer
`conv_0` of a module of the kind `encoder.block` at level 1, and a `Family` says where such a module and such a layer
are in its own numbering. So every leaf has a name, and one table serves both directions. Read next: `families.py`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

_PLACED = re.compile(
    r"(?P<part>encoder|decoder)\.level_(?P<level>\d+)_(?P<kind>[a-z]+)(_(?P<block>\d+))?(?P<after>\w*)"
)
# Our parameters, or their shapes: nested dicts by the names of modules and layers.
Params: TypeAlias = Mapping[str, Any]
# `{name: array}`: the tensors of a foreign network.
StateDict: TypeAlias = Mapping[str, np.ndarray]
# `{name: shape}`: of tensors, or of leaves by their paths.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_FUSED = ("query", "key", "value")  # in the order of their rows, where one foreign tensor holds the three


class Family(NamedTuple):
    """How one family of networks names and lays out its tensors.

    Attributes:
      modules: maps the kind of our module to `(where it is, {our layer: its layer})`. In a place, `{level}` and
        `{below}` count levels from the finest and from the coarsest, `{block}` counts the blocks of a level, `{down}`
        and `{up}` count all blocks of the encoder (after the first convolution) and of the decoder, and `{behind}` is 2
        after an attention and 1 elsewhere. The kind "" is the network itself.
      axes: maps our layer's name to the number of axes of length 1 that its foreign kernel has at the end: there, a
        linear map of the channels is a 1x1 convolution.
    """

    modules: Mapping[str, tuple[str, Mapping[str, str]]]
    axes: Mapping[str, int]


class Tensor(NamedTuple):
    """One foreign tensor, and the leaves of our parameters that it holds.

    Attributes:
      name: its name in the foreign state dict.
      leaves: `{our path: shape}`; there are three where queries, keys and values are fused.
      kernel: whether it is a kernel, which is `[..., I, O]` in ours and `[O, I, ...]` in the foreign layout.
      axes: number of axes of length 1 at the end of the foreign tensor.
      heads: attention heads of a fused tensor, whose rows run over (head, which of three, channel).
    """

    name: str
    leaves: Shapes
    kernel: bool
    axes: int
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the foreign tensor."""
        shape = next(iter(self.leaves.values()))
        if self.kernel:
            *places, inputs, outputs = shape
            shape = (outputs, inputs, *places, *(1,) * self.axes)
        return (len(self.leaves) * shape[0], *shape[1:])

    def to_foreign(self, leaves: Sequence[np.ndarray]) -> np.ndarray:
        """The foreign tensor that holds our leaves, which come in the order of `self.leaves`."""
        if self.kernel:
            leaves = [np.moveaxis(leaf, (-1, -2), (0, 1)) for leaf in leaves]
            leaves = [leaf.reshape(leaf.shape + (1,) * self.axes) for leaf in leaves]
        if len(leaves) == 1:
            return leaves[0]
        split = (self.heads, leaves[0].shape[0] // self.heads, *leaves[0].shape[1:])
        return np.stack([leaf.reshape(split) for leaf in leaves], axis=1).reshape(-1, *split[2:])

    def to_ours(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Our leaves from the foreign tensor, in the order of `self.leaves`."""
        parts = [tensor]
        if len(self.leaves) > 1:
            split = tensor.reshape(self.heads, len(self.leaves), -1, *tensor.shape[1:])
            parts = [split[:, i].reshape(-1, *tensor.shape[1:]) for i in range(len(self.leaves))]
        if self.kernel:
            parts = [part.reshape(part.shape[: part.ndim - self.axes]) for part in parts]
            parts = [np.moveaxis(part, (0, 1), (-1, -2)) for part in parts]
        return parts


def tensors(family: Family, params: Params, *, heads: Callable[[int], int]) -> list[Tensor]:
    """The tensors of the foreign network that is equivalent to ours.

    Args:
      family: the names and layouts of the foreign network.
      params: our tree of parameters, or of their shapes.
      heads: function from the width of an attention layer to the groups of rows of a fused tensor.

    Returns:
      The tensors, which together hold every leaf of ours exactly once.
    """
    leaves = flat(params)
    by_name: dict[str, list[str]] = {}
    name_of = _names(family, leaves)
    for path in leaves:
        by_name.setdefault(name_of(path), []).append(path)
    return [
        _tensor(family, name, {path: tuple(leaves[path].shape) for path in paths}, heads=heads)
        for name, paths in by_name.items()
    ]


def _tensor(family: Family, name: str, leaves: Shapes, *, heads: Callable[[int], int]) -> Tensor:
    """The `Tensor` of that name, which holds these leaves."""
    if len(leaves) > 1:
        leaves = {path: leaves[path] for path in sorted(leaves, key=lambda path: _FUSED.index(path.split(".")[-2]))}
    path, shape = next(iter(leaves.items()))
    kernel = path.endswith(".kernel") or path == "pool.embedding"
    axes = family.axes.get(path.split(".")[-2], 0) if kernel else 0
    # The rows of a classifier's pool, unlike those of the blocks, run over (which of three, head, channel).
    groups = heads(shape[-1]) if len(leaves) > 1 and not path.startswith("pool.") else 1
    return Tensor(name, leaves, kernel, axes, groups)


def flat(params: Params) -> dict[str, Any]:
    """A tree as `{"encoder.conv_in.kernel": leaf, ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _names(family: Family, leaves: Collection[str]) -> Callable[[str], str]:
    """A function from the path of one of our leaves to the name of the foreign tensor that holds it."""
    last = max(int(found["level"]) for found in map(_PLACED.match, leaves) if found)
    each = sum(bool(re.fullmatch(r"encoder\.level_0_block_\d+\.conv_0\.kernel", path)) for path in leaves)

    def coordinates(placed: re.Match[str]) -> dict[str, int]:
        level, block = int(placed["level"]), int(placed["block"] or each)  # a resampling follows a level's blocks
        attends = f"decoder.level_{level}_block_{each}_attention.norm.scale" in leaves
        return {
            "level": level,
            "below": last - level,
            "block": block,
            "down": 1 + level * (each + 1) + block,
            "up": (last - level) * (each + 1) + block,
            "behind": 1 + attends,
        }

    def name(path: str) -> str:
        placed = _PLACED.match(path)
        module = placed.group() if placed else path.rsplit(".", 2)[0] if path.startswith("middle.") else ""
        kind = f"{placed['part']}.{placed['kind']}{placed['after']}" if placed else module
        place, layers = family.modules[kind]
        if path in layers:  # a tensor that is not the weight or bias of a layer
            return layers[path]
        layer, _, leaf = path.removeprefix(f"{module}." if module else "").rpartition(".")
        place = place.format(**coordinates(placed)) if placed else place
        return ".".join(filter(None, (place, layers[layer], "bias" if leaf == "bias" else "weight")))

    return name

"""The language of the tables of names: which tensor of a foreign network is which leaf of ours, and in which layout.

Our tree of parameters is walked, not the foreign network: a leaf `encoder.level_1_block_0.conv_0.kernel` is layer
`conv_0` of a module of the kind `encoder.block` at level 1, and a `Family` says where such a module and such a layer
are in its own numbering. So every leaf has a name, and one table serves both directions. Read next: `families.py`.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

_PLACED = re.compile(
    r"(?P<part>encoder|decoder)\.level_(?P<level>\d+)_(?P<kind>[a-z]+)(_(?P<block>\d+))?(?P<after>\w*)"
)
_FUSED = ("query", "key", "value")  # in the order of their rows, where one foreign tensor holds the three


class Family(NamedTuple):
    """How one family of networks calls and lays out its tensors.

    Attributes:
      modules: kind of our module to `(where it is, {our layer: its layer})`. In a place, `{level}` and `{below}` count
        levels from the finest and from the coarsest, `{block}` the blocks of a level, `{down}` and `{up}` all blocks on
        the way down (after the first convolution) and up, `{behind}` is 2 behind an attention and 1 elsewhere. The kind
        "" is the network itself.
      axes: our layer's name to how many axes of length 1 its foreign kernel has at the end: a linear map of the
        channels is a 1x1 convolution there.
    """

    modules: Mapping[str, tuple[str, Mapping[str, str]]]
    axes: Mapping[str, int]


class Tensor(NamedTuple):
    """One foreign tensor.

    Attributes:
      name: as in the foreign state dict.
      leaves: `{path of ours: shape}`; three where queries, keys and values are fused.
      kernel: (..., I, O) in ours is (O, I, ...) there.
      axes: of length 1 at the end of the foreign one.
      heads: of a fused tensor, whose rows run over (head, which of three, channel).
    """

    name: str
    leaves: Mapping[str, tuple[int, ...]]
    kernel: bool
    axes: int
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the foreign tensor."""
        shape = next(iter(self.leaves.values()))
        if self.kernel:
            *places, inputs, outputs = shape
            shape = (outputs, inputs, *places, *(1,) * self.axes)
        return (len(self.leaves) * shape[0], *shape[1:])

    def to_foreign(self, leaves):
        """The foreign tensor of our leaves."""
        if self.kernel:
            leaves = [np.moveaxis(leaf, (-1, -2), (0, 1)) for leaf in leaves]
            leaves = [leaf.reshape(leaf.shape + (1,) * self.axes) for leaf in leaves]
        if len(leaves) == 1:
            return leaves[0]
        split = (self.heads, leaves[0].shape[0] // self.heads, *leaves[0].shape[1:])
        return np.stack([leaf.reshape(split) for leaf in leaves], axis=1).reshape(-1, *split[2:])

    def to_ours(self, tensor):
        """Our leaves of the foreign tensor."""
        parts = [tensor]
        if len(self.leaves) > 1:
            split = tensor.reshape(self.heads, len(self.leaves), -1, *tensor.shape[1:])
            parts = [split[:, i].reshape(-1, *tensor.shape[1:]) for i in range(len(self.leaves))]
        if self.kernel:
            parts = [part.reshape(part.shape[: part.ndim - self.axes]) for part in parts]
            parts = [np.moveaxis(part, (0, 1), (-1, -2)) for part in parts]
        return parts


def tensors(family, params, *, heads):
    """The tensors of the foreign network that is ours.

    Args:
      family: `Family`.
      params: our tree of parameters, or of their shapes.
      heads: function from an attention's width to the groups of rows of a fused tensor.

    Returns:
      `[Tensor]`, which together hold every leaf of ours once.
    """
    leaves, by_name = flat(params), {}
    name_of = _names(family, leaves)
    for path in leaves:
        by_name.setdefault(name_of(path), []).append(path)
    return [
        _tensor(family, name, {path: tuple(leaves[path].shape) for path in paths}, heads=heads)
        for name, paths in by_name.items()
    ]


def _tensor(family, name, leaves, *, heads):
    """The `Tensor` of that name, which holds these leaves `{path: shape}`."""
    if len(leaves) > 1:
        leaves = {path: leaves[path] for path in sorted(leaves, key=lambda path: _FUSED.index(path.split(".")[-2]))}
    path, shape = next(iter(leaves.items()))
    kernel = path.endswith(".kernel") or path == "pool.embedding"
    axes = family.axes.get(path.split(".")[-2], 0) if kernel else 0
    # The rows of a classifier's pool, unlike those of the blocks, run over (which of three, head, channel).
    groups = heads(shape[-1]) if len(leaves) > 1 and not path.startswith("pool.") else 1
    return Tensor(name, leaves, kernel, axes, groups)


def flat(params):
    """A tree as `{"encoder.conv_in.kernel": leaf, ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def nested(leaves):
    """The inverse of `flat`."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _names(family, leaves):
    """A function from the path of one of our leaves to what the tensor that holds it is called there."""
    last = max(int(found["level"]) for found in map(_PLACED.match, leaves) if found)
    each = sum(bool(re.fullmatch(r"encoder\.level_0_block_\d+\.conv_0\.kernel", path)) for path in leaves)

    def coordinates(placed):
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

    def name(path):
        placed = _PLACED.match(path)
        module = placed.group() if placed else path.rsplit(".", 2)[0] if path.startswith("middle.") else ""
        kind = f"{placed['part']}.{placed['kind']}{placed['after']}" if placed else module
        place, layers = family.modules[kind]
        if path in layers:  # a tensor that is no layer's weight or bias
            return layers[path]
        layer, _, leaf = path.removeprefix(f"{module}." if module else "").rpartition(".")
        place = place.format(**coordinates(placed)) if placed else place
        return ".".join(filter(None, (place, layers[layer], "bias" if leaf == "bias" else "weight")))

    return name

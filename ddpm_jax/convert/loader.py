"""The one loader: applies a table of names in either direction and accounts for every tensor.

Read next: `files.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ddpm_jax.convert.names import Tensor, flat, nested
from ddpm_jax.errors import UserError, listed


def parameters(state_dict: Mapping[str, np.ndarray], table: Sequence[Tensor], *, source: object) -> dict:
    """Our parameters, float32 and finite, of a foreign state dict.

    Args:
      state_dict: `{name: array}`.
      table: `[Tensor]` of `names.tensors`.
      source: what the tensors come from, for the message.

    Raises:
      UserError: a tensor is missing, left over, of another shape, or not finite; all are listed.
    """
    found = mismatches(state_dict, table)
    if found:
        raise UserError(f"{source} does not fit the network: {'; '.join(found)}")
    leaves, broken = {}, []
    for tensor in table:
        with np.errstate(over="ignore"):  # which is infinite then
            array = np.asarray(state_dict[tensor.name], np.float32)
        if not np.isfinite(array).all():
            broken.append(tensor.name)
        leaves.update(zip(tensor.leaves, tensor.to_ours(array), strict=True))
    if broken:
        raise UserError(
            f"{source} has weights that are not finite (NaN, infinite, or too large for float32), in "
            f"{listed(broken, most=3)}; take an earlier checkpoint"
        )
    return nested(leaves)


def state_dict(params, table):
    """The foreign state dict of our parameters, the inverse of `parameters`."""
    leaves = flat(params)
    return {
        tensor.name: np.ascontiguousarray(tensor.to_foreign([np.asarray(leaves[path]) for path in tensor.leaves]))
        for tensor in table
    }


def mismatches(state_dict: Mapping[str, np.ndarray], table: Sequence[Tensor]) -> list[str]:
    """What keeps a state dict from being the table's network, in words; empty where nothing does."""
    expected = {tensor.name: tensor.shape for tensor in table}
    shapes = {name: np.shape(array) for name, array in state_dict.items()}
    differing = [
        f"{name} is {list(shapes[name])} and not {list(shape)}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in shapes],
        "left over": [name for name in shapes if name not in expected],
        "of another shape": differing,
        "of complex numbers": [name for name, array in state_dict.items() if np.iscomplexobj(array)],
    }
    return [f"{kind}: {listed(names, most=3)}" for kind, names in kinds.items() if names]

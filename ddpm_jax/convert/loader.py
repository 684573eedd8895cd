"""Loading of weights: a table of names is applied in either direction, and every tensor is accounted for.

Read next: `files.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpm_jax.convert.names import Params, StateDict, Tensor, flat, nested
from ddpm_jax.errors import UserError, listed


def parameters(state_dict: StateDict, table: Sequence[Tensor], *, source: object) -> dict[str, Any]:
    """Our parameters, float32 and finite, from a foreign state dict.

    Args:
      state_dict: the foreign tensors.
      table: the tensors that `names.tensors` expects.
      source: where the tensors come from, for the message.

    Raises:
      UserError: a tensor is missing, left over, of another shape, complex, or not finite; the message counts them all
        and names the first ones.
    """
    found = mismatches(state_dict, table)
    if found:
        raise UserError(f"{source} does not fit the network: {'; '.join(found)}")
    leaves: dict[str, np.ndarray] = {}
    broken: list[str] = []
    for tensor in table:
        with np.errstate(over="ignore"):  # a number that is too large becomes infinite
            array = np.asarray(state_dict[tensor.name], np.float32)
        if not np.isfinite(array).all():
            broken.append(tensor.name)
        leaves.update(zip(tensor.leaves, tensor.to_ours(array), strict=True))
    if broken:
        raise UserError(
            f"{source} has weights that are not finite (NaN, infinite, or too large for float32), in "
            f"{listed(broken, most=3)}; use an earlier checkpoint"
        )
    return nested(leaves)


def state_dict(params: Params, table: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The foreign state dict of our parameters, which is the inverse of `parameters`."""
    leaves = flat(params)
    return {
        tensor.name: np.ascontiguousarray(tensor.to_foreign([np.asarray(leaves[path]) for path in tensor.leaves]))
        for tensor in table
    }


def mismatches(state_dict: StateDict, table: Sequence[Tensor]) -> list[str]:
    """The reasons, in words, why a state dict does not fit the table's network; the list is empty if it does."""
    expected = {tensor.name: tensor.shape for tensor in table}
    shapes = {name: np.shape(array) for name, array in state_dict.items()}
    differing = [
        f"{name} is {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in shapes],
        "unexpected": [name for name in shapes if name not in expected],
        "of another shape": differing,
        "of complex numbers": [name for name, array in state_dict.items() if np.iscomplexobj(array)],
    }
    return [f"{kind}: {listed(names, most=3)}" for kind, names in kinds.items() if names]

"""The one loader: applies a table of names in either direction and accounts for every tensor.

Read next: `files.py`.
"""

import numpy as np

from ddpm_jax.convert.names import flat, nested
from ddpm_jax.errors import UserError

_LISTED = 10  # names of each kind of mistake


def parameters(state_dict, table, *, source):
    """Our parameters, float32, of a foreign state dict.

    Args:
      state_dict: `{name: array}`.
      table: `[Tensor]` of `names.tensors`.
      source: what the tensors come from, for the message.

    Raises:
      UserError: a tensor is missing, left over or of another shape; all are listed.
    """
    found = mismatches(state_dict, table)
    if found:
        raise UserError(f"{source} does not fit the network: {'; '.join(found)}")
    leaves = {}
    for tensor in table:
        array = np.asarray(state_dict[tensor.name], np.float32)
        leaves.update(zip(tensor.leaves, tensor.to_ours(array), strict=True))
    return nested(leaves)


def state_dict(params, table):
    """The foreign state dict of our parameters, the inverse of `parameters`."""
    leaves = flat(params)
    return {
        tensor.name: np.ascontiguousarray(tensor.to_foreign([np.asarray(leaves[path]) for path in tensor.leaves]))
        for tensor in table
    }


def mismatches(state_dict, table):
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
    }
    return [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def _listed(names):
    """The names, or the first of very many."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")

"""The published weights of the Inception network, which define the Frechet Inception distance.

The file `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid and `weights-inception-2015-12-05-6726825d.pth` of
torch-fidelity have the same content, whose SHA-256 digest begins with the last part of their names.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.convert import loader
from ddpm_jax.convert.files import is_state_dict, read_weights, sha256
from ddpm_jax.convert.names import StateDict, Tensor, flat
from ddpm_jax.errors import UserError, reading
from ddpm_jax.models.inception import NUM_LOGITS, Inception
from ddpm_jax.runtime.paths import local_path

DIGEST_START = "6726825d"

_EPSILON = 1e-3  # of every batch norm
_NORM = ("weight", "bias", "running_mean", "running_var")


class InceptionWeights(NamedTuple):
    """The parameters of `models.inception.Inception`, and the SHA-256 digest of the file in hexadecimal."""

    params: dict[str, Any]
    sha256: str


def load_inception(path: str | os.PathLike[str]) -> InceptionWeights:
    """Reads the published file without running any code in it.

    Raises:
      UserError: the file cannot be read, or it has another digest than the published one.
    """
    path = local_path(path)
    with reading(path):
        digest = sha256(path)
    if not digest.startswith(DIGEST_START):
        raise UserError(
            f"{path} is not the published Inception file: its SHA-256 begins with {digest[:8]} instead of "
            f"{DIGEST_START}; download pt_inception-2015-12-05-{DIGEST_START}.pth of pytorch-fid"
        )
    return InceptionWeights(inception_params(read_weights(path), source=path), digest)


def inception_params(state_dict: StateDict, *, source: object) -> dict[str, Any]:
    r"""The parameters of `models.inception.Inception` from the published tensors.

    A batch norm in inference is part of the convolution before it:

    $$ \gamma \frac{k * x - \mu}{\sqrt{v + \epsilon}} + \beta = (s k) * x + (\beta - s \mu), \quad
       s = \frac{\gamma}{\sqrt{v + \epsilon}} $$

    Args:
      state_dict: the tensors by their names. `fc.bias` must be there and is not used, as logits are without bias.
        `*.num_batches_tracked`, which counts steps of training, and `AuxLogits.*`, the classifier that serves only
        training, may be there.
      source: where the tensors come from, for the message.

    Raises:
      UserError: a tensor is missing, left over, of another shape, or not finite.
    """
    if not is_state_dict(state_dict):
        raise UserError(f"{source} holds no tensors by name, so it is not the published Inception file")
    needed = {name: array for name, array in state_dict.items() if not _of_training(name)}
    table = [Tensor(name, {name: shape}, False, 0, 1) for name, shape in published_shapes().items()]
    tensors = loader.parameters(needed, table, source=source)
    kernel = np.ascontiguousarray(tensors.pop("fc")["weight"].T)
    return {**_folded(tensors), "fc": {"kernel": kernel}}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The name and the shape of every tensor of the published file, from the shapes of our parameters."""
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    params = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (NUM_LOGITS, 2048), "fc.bias": (NUM_LOGITS,)}
    for path, leaf in flat(params).items():
        if len(leaf.shape) == 4:
            name, (*places, inputs, outputs) = path.removesuffix(".kernel"), leaf.shape
            shapes[f"{name}.conv.weight"] = (outputs, inputs, *places)
            shapes.update({f"{name}.bn.{part}": (outputs,) for part in _NORM})
    return shapes


def _of_training(name: str) -> bool:
    """Whether a tensor of this name has an effect in training alone."""
    return name.endswith(".bn.num_batches_tracked") or name.startswith("AuxLogits.")


def _folded(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with `{"kernel": [H, W, I, O], "bias": [O]}` in place of every convolution and its batch norm."""
    if "conv" not in tensors:
        return {name: _folded(part) for name, part in tensors.items()}
    scale, offset, mean, variance = (tensors["bn"][part].astype(np.float64) for part in _NORM)
    scale = scale / np.sqrt(variance + _EPSILON)
    kernel = np.transpose(tensors["conv"]["weight"], (2, 3, 1, 0)) * scale
    return {"kernel": kernel.astype(np.float32), "bias": (offset - scale * mean).astype(np.float32)}

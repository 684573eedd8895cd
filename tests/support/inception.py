"""The published Inception tensors in shape, with random numbers; see golden/README.md."""

import json
import math
import zlib

import numpy as np

from support.weights import GOLDEN


def published() -> dict[str, np.ndarray]:
    """Tensors with the names and shapes of the published file, drawn as those that the recorded outputs belong to."""
    shapes = json.loads((GOLDEN / "inception_shapes.json").read_text())
    return {name: _drawn(name, tuple(shape)) for name, shape in shapes.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    z = np.random.default_rng([1, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith("conv.weight"):
        z *= math.sqrt(2 / math.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        z = 1 + 0.1 * z
    elif name.endswith("running_var"):
        z = np.exp(0.2 * z)
    else:
        z *= 0.02 if name.startswith("fc.") else 0.1
    return z.astype(np.float32)

"""Foreign weights for the tests: the recorded networks, and networks of diffusers with random weights."""

import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from configs import base
from ddpm_jax import build
from ddpm_jax.convert.incoming import configured, converted, understood

GOLDEN = Path(__file__).parent / "golden"
GIVEN = {  # what the recorded networks' tensors do not tell
    "improved_uncond": {"image_size": 8, "num_heads": 4, "time_scale": 1.0},
    "adm_cond": {"image_size": 8, "head_channels": 16},
    "classifier": {"head_channels": 32},
}


def read_golden(name):
    """A recorded network: `(settings, state dict, arrays)`; see golden/README.md."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    weights = safetensors.numpy.load_file(GOLDEN / f"{name}.safetensors")
    return json.loads((GOLDEN / f"{name}.json").read_text()), weights, arrays


def opened(path, **given):
    """Foreign weights as `(config, network as a jitted function of (x, index, ...), params, foreign Network)`."""
    foreign, _ = understood(path, given)
    config = configured(foreign, base.get_config(), name="converted")
    params, _ = converted(foreign, config, source=path)
    apply = jax.jit(build.network(config).apply)
    return config, lambda *args: np.asarray(apply({"params": params}, *args)), params, foreign


def relative_error(out, expected):
    out, expected = np.asarray(out, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(out - expected) / np.linalg.norm(expected)

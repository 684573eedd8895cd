"""Small networks for the tests: both families at 8x8 pixels, random parameters, and a look into what is computed."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import chex
import jax
import jax.extend
import numpy as np
from flax import linen as nn
from jax.extend.core import Jaxpr, JaxprEqn
from jax.typing import ArrayLike

from ddpm_jax.models import Architecture, UNet

Params: TypeAlias = dict[str, Any]
"""Nested dicts by the names of modules, whose leaves are arrays, or the shapes of arrays."""

_SMALL: dict[str, Any] = {
    "channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "norm_groups": 8,
}
_ADM: dict[str, Any] = {
    "head_channels": 16,
    "scale_shift_norm": True,
    "resample_in_block": True,
    "padding": "symmetric",
    "time_embedding": "cos_sin",
    "norm_epsilon": 1e-5,
}


def ho(**changes: Any) -> Architecture:
    """A small `Architecture` of Ho et al.'s family."""
    return Architecture(**{**_SMALL, **changes})


def adm(**changes: Any) -> Architecture:
    """A small `Architecture` of ADM's family."""
    return Architecture(**{**_SMALL, **_ADM, **changes})


FAMILIES: dict[str, Callable[..., Architecture]] = {"ho": ho, "adm": adm}
LABEL = np.array([0, 1])


def inputs(batch_size: int = 2, height: int = 8, width: int = 8, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images `[B, H, W, 3]` and 0-based time indices `[B]`, both float32."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 1000, batch_size)
    return rng.standard_normal((batch_size, height, width, 3)).astype(np.float32), times.astype(np.float32)


def shapes(model: nn.Module, *args: ArrayLike) -> Params:
    """The parameter tree of a module for these arguments, with `jax.ShapeDtypeStruct` as leaves."""
    return jax.eval_shape(lambda key: model.init(key, *args), jax.random.key(0))["params"]


def random_params(model: nn.Module, *args: ArrayLike, seed: int = 0) -> Params:
    """Parameters none of which is zero or one, so that every layer has an effect; kernels keep their input's scale."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "kernel":
            return noise / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return {"bias": 0.0, "scale": 1.0, "embedding": 0.0}[name] + np.float32(0.2) * noise

    return jax.tree_util.tree_map_with_path(draw, shapes(model, *args))


def flat(params: Params) -> dict[str, Any]:
    """The leaves by their paths, `{"encoder.conv_in.kernel": array, ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def equations(function: Callable[..., chex.ArrayTree], *args: chex.ArrayTree) -> list[JaxprEqn]:
    """Every primitive operation of a function, including those of its inner functions."""

    def walk(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
        for equation in jaxpr.eqns:
            yield equation
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*args).jaxpr))


@functools.cache
def small_unet(arch: Architecture) -> tuple[Callable[[ArrayLike, ArrayLike, ArrayLike], jax.Array], Params]:
    """A U-Net of three classes as a jitted function of `(x, index, label)`, and its random parameters."""
    model = UNet(arch, num_classes=3)
    params = random_params(model, *inputs(), LABEL)
    return jax.jit(functools.partial(model.apply, {"params": params})), params

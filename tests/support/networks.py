"""Small networks for the tests: both families at 8x8 pixels, random parameters, and a look into what is computed."""

import functools

import jax
import jax.extend
import numpy as np

from ddpm_jax.models import Architecture, UNet

_SMALL = {
    "channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "norm_groups": 8,
}
_ADM = {
    "head_channels": 16,
    "scale_shift_norm": True,
    "resample_in_block": True,
    "padding": "symmetric",
    "time_embedding": "cos_sin",
    "norm_epsilon": 1e-5,
}


def ho(**changes):
    """A small `Architecture` of Ho et al.'s family."""
    return Architecture(**{**_SMALL, **changes})


def adm(**changes):
    """A small `Architecture` of ADM's family."""
    return Architecture(**{**_SMALL, **_ADM, **changes})


FAMILIES = {"ho": ho, "adm": adm}
LABEL = np.array([0, 1])


def inputs(batch_size=2, height=8, width=8, *, seed=0):
    """Noisy images `[B, H, W, 3]` and 0-based times `[B]`."""
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 1000, batch_size)
    return rng.standard_normal((batch_size, height, width, 3)).astype(np.float32), times.astype(np.float32)


def shapes(model, *args):
    """The parameter tree of a module for these arguments, as shapes."""
    return jax.eval_shape(lambda key: model.init(key, *args), jax.random.key(0))["params"]


def random_params(model, *args, seed=0):
    """Parameters none of which is zero or one, so that every layer counts; kernels keep the scale of their input."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "kernel":
            return noise / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return {"bias": 0.0, "scale": 1.0, "embedding": 0.0}[name] + np.float32(0.2) * noise

    return jax.tree_util.tree_map_with_path(draw, shapes(model, *args))


def flat(params):
    """`{"encoder.conv_in.kernel": array, ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def equations(function, *args):
    """Every primitive operation of a function, those of its inner functions included."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*args).jaxpr))


@functools.cache
def small_unet(arch):
    """A U-Net of three classes as a jitted function of (x, index, label), and its random parameters."""
    model = UNet(arch, num_classes=3)
    params = random_params(model, *inputs(), LABEL)
    return jax.jit(functools.partial(model.apply, {"params": params})), params

"""A run that takes seconds: digits, one level of eight channels, T = 20."""

from configs import digits
from ddpm_jax.config import flatten


def tiny_config(**overrides):
    """The tiny configuration; overrides as `{"train.num_steps": 4}` with `__` for the dot."""
    config = digits.get_config()
    settings = {
        "name": "tiny",
        "model.channels": 8,
        "model.channel_mult": (1,),
        "model.norm_groups": 4,
        "model.attention_resolutions": (),
        "diffusion.num_timesteps": 20,
        "train.batch_size": 8,
        "train.num_steps": 8,
        "checkpoint.every": 2,
        "checkpoint.keep": 2,
        "log.every": 1,
        "log.preview_every": 0,
        "log.preview_images": 4,
        "log.preview_steps": 5,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    for key, value in settings.items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    return config


def arguments(config):
    """The configuration as command-line arguments over the default experiment."""
    base = flatten(digits.get_config())
    return [f"--config.{k}={v}" for k, v in flatten(config).items() if v != base[k]]


def same(left, right):
    """Whether two trees of arrays are equal bit for bit."""
    import jax
    import numpy as np

    def bits(x):
        return np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    leaves = jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(bits(a), bits(b)), left, right))
    return all(leaves) and bool(leaves)

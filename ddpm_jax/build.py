"""From a configuration to objects: the only tables of names, and the only module that knows all the others.

Every function takes the whole configuration. A name that is not in its table, or a size that does not fit, is a
UserError that names the key.
"""

from functools import partial

import jax.numpy as jnp
import optax

from ddpm_jax import losses, schedule
from ddpm_jax.errors import UserError
from ddpm_jax.guidance import clip_x_0
from ddpm_jax.models import Architecture, UNet
from ddpm_jax.prediction import Target, as_denoiser
from ddpm_jax.samplers import Variance, ancestral
from ddpm_jax.step import Recipe

_BETAS = ("beta_start", "beta_end")
SCHEDULES = {
    "linear": (schedule.linear, _BETAS),
    "quadratic": (schedule.quadratic, _BETAS),
    "sigmoid": (schedule.sigmoid, _BETAS),
    "cosine": (schedule.cosine, ()),
}
TARGETS = {target.value: target for target in Target}
VARIANCES = {variance.value: variance for variance in Variance}
WEIGHTS = {"eps": losses.eps_weight, "x_0": losses.x_0_weight, "v": losses.v_weight}
TIMES = {"uniform": losses.uniform_times, "antithetic": losses.antithetic_times}


def noise_schedule(config):
    """The `NoiseSchedule` of `config.diffusion`."""
    diffusion = config.diffusion
    make, keys = _named(SCHEDULES, diffusion.schedule, "diffusion.schedule")
    try:
        return make(diffusion.num_timesteps, **{key: diffusion[key] for key in keys})
    except ValueError as error:
        raise UserError(f"config.diffusion makes no noise schedule: {error}") from error


def network(config):
    """The U-Net of `config.model` for the images of `config.data`."""
    size, levels = config.data.image_size, len(config.model.channel_mult)
    if size % 2 ** (levels - 1):
        raise UserError(
            f"config.data.image_size={size} cannot be halved {levels - 1} times, as the {levels} levels of "
            f"config.model.channel_mult ask; use a multiple of {2 ** (levels - 1)} or fewer levels"
        )
    _named(("float32", "bfloat16"), config.model.dtype, "model.dtype")
    for mult in config.model.channel_mult:
        width, groups = config.model.channels * mult, config.model.norm_groups
        if width % groups:
            raise UserError(f"a width of {width} channels does not divide into config.model.norm_groups={groups}")
        heads = config.model.head_channels or config.model.num_heads
        if width % heads:
            raise UserError(f"a width of {width} channels does not divide by the attention heads ({heads})")
    try:
        architecture = Architecture(**{key: _plain(value) for key, value in config.model.items()})
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error
    return UNet(architecture, out_channels=config.data.channels)


def initial_params(config, model):
    """A function from a key to the network's parameters."""
    size, channels = config.data.image_size, config.data.channels

    def init(key):
        return model.init(key, jnp.zeros((1, size, size, channels)), jnp.zeros(1), None)["params"]

    return init


def denoiser(config, model):
    """A function from parameters (and labels) to the `Denoiser` that samplers use."""
    target = _named(TARGETS, config.diffusion.target, "diffusion.target")

    def with_params(params, label=None):
        denoise = as_denoiser(model.apply, {"params": params}, target, label=label)
        return clip_x_0(denoise) if config.sample.clip_x_0 else denoise

    return with_params


def objective(config, model):
    """The training objective `(params, examples, key) -> {name: [B]}` of a `Recipe`."""
    target = _named(TARGETS, config.diffusion.target, "diffusion.target")
    loss = losses.l_simple(_named(WEIGHTS, config.loss.weight, "loss.weight"))

    def terms(params, examples, key):
        apply = partial(model.apply, train=True, rngs={"dropout": key})
        denoise = as_denoiser(apply, {"params": params}, target)
        return loss(denoise, examples.x_0, examples.keys, examples.transition)

    return terms


def learning_rate(config):
    """The learning rate as a function of the step: linear warm-up from 0, then constant."""
    optim = config.optim
    if not optim.warmup_steps:
        return optax.constant_schedule(optim.learning_rate)
    return optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)


def optimizer(config):
    """Adam after a clip by global norm."""
    optim = config.optim
    clip = optax.clip_by_global_norm(optim.grad_clip) if optim.grad_clip else optax.identity()
    return optax.chain(clip, optax.adam(learning_rate(config), optim.beta_1, optim.beta_2, optim.epsilon))


def recipe(config, model):
    """What the train step needs besides state and batch."""
    return Recipe(
        objective=objective(config, model),
        draw_times=_named(TIMES, config.loss.times, "loss.times"),
        transitions=noise_schedule(config).transitions(),
        optimizer=optimizer(config),
        ema_decay=config.optim.ema_decay,
        accumulation=config.train.accumulation,
        random_flip=config.data.random_flip,
    )


def sampler(config):
    """The `Sampler` of `config.sample`."""
    return ancestral(_named(VARIANCES, config.sample.variance, "sample.variance"))


def sampling_transitions(config, num_steps):
    """The moves of a reverse chain of `num_steps`; 0 for all T."""
    noise = noise_schedule(config)
    try:
        steps = schedule.uniform_timesteps(noise.num_timesteps, num_steps or noise.num_timesteps)
    except ValueError as error:
        raise UserError(str(error)) from error
    return noise.transitions(steps)


def source(config):
    """The images of `config.data`."""
    data = config.data
    shape = {"size": data.image_size, "channels": data.channels, "crop": tuple(data.crop) or None}
    return _named(SOURCES, data.source, "data.source")(data, shape)


def _digits(data, shape):
    """The built-in digits, which have one size."""
    from ddpm_jax.data.digits import Digits

    if (data.image_size, data.channels) != (8, 1) or data.crop:
        raise UserError("the digits are 8x8 and grey: use data.image_size=8, data.channels=1 and no data.crop")
    return Digits(_named(("train", "test", "all"), data.split, "data.split"))


def _folder(data, shape):
    """A folder of images."""
    from ddpm_jax.data.folder import ImageFolder

    if not data.path:
        raise UserError("name the folder of images with --config.data.path=FOLDER")
    return ImageFolder(data.path, skip_unreadable=data.skip_unreadable, **shape)


def _tfds(data, shape):
    """A prepared data set of tensorflow-datasets."""
    from ddpm_jax.data.tfds import TfdsImages

    return TfdsImages(data.name, data.split, data_dir=data.path or None, **shape)


SOURCES = {"digits": _digits, "folder": _folder, "tfds": _tfds}


def _named(table, name, key):
    """The entry of a table, or the name itself in a set of names."""
    if name not in table:
        raise UserError(f"config.{key}={name!r} is not one of: {', '.join(table)}")
    return table[name] if isinstance(table, dict) else name


def _plain(value):
    """Tuples out of whatever sequence the configuration holds."""
    return tuple(value) if isinstance(value, list | tuple) else value

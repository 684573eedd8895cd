"""From a configuration to objects: the only tables of names, and the only module that knows all the others.

Every function takes the whole configuration. A name that is not in its table, or a size that does not fit, is a
UserError that names the key.
"""

from functools import partial

import jax.numpy as jnp
import optax

from ddpm_jax import grids, losses, schedule, times
from ddpm_jax.errors import UserError
from ddpm_jax.guidance import clip_x_0
from ddpm_jax.models import Architecture, UNet
from ddpm_jax.prediction import Target, as_denoiser
from ddpm_jax.samplers import (
    Variance,
    ancestral,
    annealed_langevin,
    ddim,
    dpm_solver_pp_2m,
    euler_maruyama,
    heun,
    langevin_corrector,
)
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
WEIGHTS = {
    "eps": losses.eps_weight,
    "x_0": losses.x_0_weight,
    "v": losses.v_weight,
    "min_snr": losses.min_snr_weight(),
    "p2": losses.p2_weight(),
}
LOSSES = {
    "simple": lambda num_timesteps, weight, vlb_weight: losses.l_simple(weight),
    "hybrid": lambda num_timesteps, weight, vlb_weight: losses.l_hybrid(
        num_timesteps, weight=weight, vlb_weight=vlb_weight
    ),
    "vlb": lambda num_timesteps, weight, vlb_weight: losses.l_vlb(num_timesteps),
}
TIMES = {"uniform": times.uniform, "antithetic": times.antithetic, "importance": times.importance}
SAMPLERS = {  # of the configuration and the chain's settings, numbers that may change without compiling anew
    "ancestral": lambda config, settings: ancestral(variance(config)),
    "ddim": lambda config, settings: ddim(settings["eta"]),
    "heun": lambda config, settings: heun(),
    "dpm_solver_pp_2m": lambda config, settings: dpm_solver_pp_2m(),
    "euler_maruyama": lambda config, settings: euler_maruyama(),
    "langevin": lambda config, settings: annealed_langevin(),
}
GRIDS = {
    "uniform": grids.uniform,
    "trailing": grids.trailing,
    "quadratic": grids.quadratic,
    "log_snr": grids.log_snr,
    "karras": grids.karras,
}


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
    if not levels:
        raise UserError("config.model.channel_mult needs one number for each level, such as (1, 2, 2)")
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
    heads = 2 if config.diffusion.learned_variance else 1
    return UNet(architecture, out_channels=heads * config.data.channels)


def initial_params(config, model):
    """A function from a key to the network's parameters."""
    size, channels = config.data.image_size, config.data.channels

    def init(key):
        return model.init(key, jnp.zeros((1, size, size, channels)), jnp.zeros(1), None)["params"]

    return init


def denoiser(config, model):
    """A function from parameters (and labels) to a `Denoiser`, clipped as configured."""
    as_network_says = _denoiser_of(config)

    def with_params(params, label=None):
        denoise = as_network_says(model.apply, {"params": params}, label=label)
        return clip_x_0(denoise) if config.sample.clip_x_0 else denoise

    return with_params


def objective(config, model):
    """The training objective `(params, examples, key) -> {name: [B]}` of a `Recipe`."""
    as_network_says = _denoiser_of(config)
    make = _named(LOSSES, config.loss.kind, "loss.kind")
    if config.diffusion.learned_variance != (config.loss.kind != "simple"):
        raise UserError(
            "a learned variance is trained by the bound: set config.diffusion.learned_variance=True together with "
            "config.loss.kind=hybrid or vlb, and False with simple"
        )
    weight = _named(WEIGHTS, config.loss.weight, "loss.weight")
    loss = make(config.diffusion.num_timesteps, weight, config.loss.vlb_weight)

    def terms(params, examples, key):
        apply = partial(model.apply, train=True, rngs={"dropout": key})
        denoise = as_network_says(apply, {"params": params})
        return loss(denoise, examples.x_0, examples.keys, examples.transition)

    return terms


def _denoiser_of(config):
    """`as_denoiser` for the configured target and variance."""
    target = _named(TARGETS, config.diffusion.target, "diffusion.target")
    return partial(as_denoiser, target=target, learned_variance=config.diffusion.learned_variance)


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
        times=_named(TIMES, config.loss.times, "loss.times")(config.diffusion.num_timesteps),
        transitions=noise_schedule(config).transitions(),
        optimizer=optimizer(config),
        ema_decay=config.optim.ema_decay,
        accumulation=config.train.accumulation,
        random_flip=config.data.random_flip,
    )


def variance(config):
    """The `Variance` of the reverse step."""
    chosen = _named(VARIANCES, config.sample.variance, "sample.variance")
    if chosen is Variance.LEARNED and not config.diffusion.learned_variance:
        raise UserError("this model has no learned variance; use sample.variance=small or large")
    return chosen


def sampler(config):
    """A function from `sampler_settings` to the `Sampler` of `config.sample`."""
    make = _named(SAMPLERS, config.sample.sampler, "sample.sampler")

    def with_settings(settings):
        chosen = make(config, settings)
        if not config.sample.corrector_steps:
            return chosen
        return langevin_corrector(chosen, snr=settings["corrector_snr"], num_steps=config.sample.corrector_steps)

    with_settings(sampler_settings(config))  # so that settings that do not fit are refused here
    return with_settings


def sampler_settings(config):
    """The numbers of `config.sample` that a compiled chain takes as inputs."""
    if not 0 <= config.sample.eta <= 1:
        raise UserError(f"eta lies between 0 (deterministic) and 1 (ancestral), got {config.sample.eta:g}")
    return {"eta": config.sample.eta, "corrector_snr": config.sample.corrector_snr}


def sampling_transitions(config, num_steps):
    """The moves of a reverse chain of `num_steps` on the configured grid; 0 for all T."""
    noise = noise_schedule(config)
    grid = _named(GRIDS, config.sample.grid, "sample.grid")
    try:
        return noise.transitions(grid(noise, num_steps or noise.num_timesteps))
    except ValueError as error:
        raise UserError(f"no chain of {num_steps} steps: {error}") from error


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

    if not data.name:
        raise UserError("name the data set with --config.data.name=NAME, such as cifar10")
    form = {**shape, "skip_unreadable": data.skip_unreadable}
    return TfdsImages(data.name, data.split, data_dir=data.path or None, label_key=data.label, **form)


SOURCES = {"digits": _digits, "folder": _folder, "tfds": _tfds}


def _named(table, name, key):
    """The entry of a table, or the name itself in a set of names."""
    if name not in table:
        raise UserError(f"config.{key}={name!r} is not one of: {', '.join(table)}")
    return table[name] if isinstance(table, dict) else name


def _plain(value):
    """Tuples out of whatever sequence the configuration holds."""
    return tuple(value) if isinstance(value, list | tuple) else value

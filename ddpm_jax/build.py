"""From a configuration to objects: the only tables of names, and the only module that knows all the others.

Every function takes the whole configuration. A name that is not in its table, or a size that does not fit, is a
UserError that names the key.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax

from ddpm_jax import bayes, grids, losses, schedule, times
from ddpm_jax.arrays import stream
from ddpm_jax.errors import UserError
from ddpm_jax.guidance import (
    classifier_free,
    classifier_guided,
    clip_x_0,
    hide_labels,
    in_one_batch,
    label_log_prob,
)
from ddpm_jax.models import Architecture, Classifier, UNet
from ddpm_jax.prediction import Target, as_classifier, as_denoiser
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

_NUMBERS = ("corrector_snr", "guidance_scale", "classifier_scale")  # of a chain, besides eta
TASKS = ("denoise", "classify")
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
RANDOM_WEIGHTS = {  # by their names
    "none": None,
    "last": lambda name: name.startswith("pool/out/"),
    "all": lambda name: True,
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
    """The network of `config.model` for the images of `config.data`: a `UNet`, or a `Classifier` for that task."""
    size, levels = config.data.image_size, len(config.model.channel_mult)
    if not levels:
        raise UserError("config.model.channel_mult needs one number for each level, such as (1, 2, 2)")
    if size % 2 ** (levels - 1):
        raise UserError(
            f"config.data.image_size={size} cannot be halved {levels - 1} times, as the {levels} levels of "
            f"config.model.channel_mult ask; use a multiple of {2 ** (levels - 1)} or fewer levels"
        )
    _named(("float32", "bfloat16"), config.model.dtype, "model.dtype")
    for level, mult in enumerate(config.model.channel_mult):
        width, groups = config.model.channels * mult, config.model.norm_groups
        if width % groups:
            raise UserError(f"a width of {width} channels does not divide into config.model.norm_groups={groups}")
        attends = level == levels - 1 or size >> level in config.model.attention_resolutions
        heads = config.model.head_channels or config.model.num_heads
        if attends and width % heads:
            raise UserError(f"a width of {width} channels does not divide by the attention heads ({heads})")
    try:
        architecture = Architecture(**{key: _plain(value) for key, value in config.model.items()})
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error
    if _named(TASKS, config.task, "task") == "classify":
        if not config.labels.num_classes:
            raise UserError("a classifier tells classes: say how many there are with config.labels.num_classes")
        return Classifier(architecture, config.labels.num_classes)
    heads = 2 if config.diffusion.learned_variance else 1
    return UNet(architecture, out_channels=heads * config.data.channels, num_classes=_num_rows(config.labels))


def _num_rows(labels):
    """Rows of the network's table of classes: the last is the hidden class, where classes are hidden."""
    if labels.dropout and not labels.num_classes:
        raise UserError("config.labels.dropout hides classes: say how many there are with config.labels.num_classes")
    return labels.num_classes + bool(labels.dropout)


def initial_params(config, model):
    """A function from a key to the network's parameters, or to the posterior over them (`bayes.MeanField`)."""
    size, channels, random = config.data.image_size, config.data.channels, _random_weights(config)
    label = (jnp.zeros(1, jnp.int32),) if config.task == "denoise" else ()

    def init(key):
        params = model.init(key, jnp.zeros((1, size, size, channels)), jnp.zeros(1), *label)["params"]
        return bayes.initial_posterior(params, std=config.posterior.init_std, where=random) if random else params

    return init


def _random_weights(config):
    """Which weights are random, a function of their names, or None."""
    random = _named(RANDOM_WEIGHTS, config.posterior.weights, "posterior.weights")
    if random and config.task != "classify":
        raise UserError("config.posterior.weights is for classifiers; use none with config.task=denoise")
    return random


def denoiser(config, model, *, classifier=None):
    """A function `(params, label=None, settings=...)` to a `Denoiser`, guided and clipped as configured.

    `label` `[B]` is ignored by a model without classes. The scales are settings, except those that the configuration
    gives as guiding nothing (guidance_scale 0 or 1, classifier_scale 0): they cost no second evaluation.

    Args:
      config: configuration.
      model: its network.
      classifier: function from parameters to log probabilities, from `classifier`, or None. With it `params` is
        `{"denoiser", "classifier"}`.
    """
    as_network_says, hidden, scale = _denoiser_of(config), config.labels.num_classes, _guidance_scale(config)

    def with_params(params, label=None, settings=None):
        settings = settings or sampler_settings(config)
        own = params["denoiser"] if classifier else params
        network = partial(as_network_says, model.apply, {"params": own})
        if scale == 1:
            denoise = network(label=label)
        elif scale == 0:
            denoise = network(label=jnp.full_like(label, hidden))
        else:
            both = network(label=jnp.stack([label, jnp.full_like(label, hidden)], axis=1).ravel())
            denoise = classifier_free(in_one_batch(both), settings["guidance_scale"])
        if classifier and config.sample.classifier_scale:
            log_prob = label_log_prob(classifier(params["classifier"]), label)
            denoise = classifier_guided(denoise, log_prob, settings["classifier_scale"])
        return clip_x_0(denoise) if config.sample.clip_x_0 else denoise

    return with_params


def classifier_samples(config, model):
    """A function from parameters to `(x_t, level) -> log p(k | x_t, w)` `[S, B, K]` at S samples of the weights.

    S is 1 where no weight is random. The samples are always the same, so a chain is guided by one classifier.
    """
    key, num_samples = stream(jax.random.key(config.seed), "posterior"), config.posterior.num_samples

    def with_params(params):
        weights = [params]
        if config.posterior.weights != "none":
            weights = [bayes.sample_weights(params, jax.random.fold_in(key, i)) for i in range(num_samples)]
        networks = [as_classifier(model.apply, {"params": sample}) for sample in weights]
        return lambda x_t, level: jnp.stack([network(x_t, level) for network in networks])

    return with_params


def classifier(config, model):
    """A function from parameters to `(x_t, level) -> log p(k | x_t)` `[B, K]`, averaged over the weights' samples."""
    samples = classifier_samples(config, model)

    def with_params(params):
        log_probs = samples(params)
        return lambda x_t, level: bayes.predictive_log_prob(log_probs(x_t, level))

    return with_params


def _guidance_scale(config):
    """The scale of classifier-free guidance, where the model has what it takes."""
    scale = config.sample.guidance_scale
    if scale != 1 and not config.labels.dropout:
        model = "was always told the class" if config.labels.num_classes else "knows no classes"
        raise UserError(
            f"guidance_scale={scale:g} needs a model trained with and without the class, and this one {model}: "
            "train one with config.labels.dropout=0.1, or use a classifier"
        )
    return scale


def labels(config, num_classes):
    """The classes of `config.sample.labels`, as a tuple of integers that images take in turn.

    Args:
      config: of the denoiser.
      num_classes: how many there are: the model's own, or those of a classifier that guides it.
    """
    asked = config.sample.labels.strip()
    if asked in ("", "all"):
        if asked and not num_classes:
            raise UserError("--labels=all: this model knows no classes; train a conditional one or give a classifier")
        return tuple(range(num_classes))
    if asked == "none":
        if not config.labels.dropout:
            raise UserError("--labels=none: this model was not trained without the class (config.labels.dropout)")
        return (config.labels.num_classes,)
    try:
        chosen = tuple(int(label) for label in asked.split(","))
    except ValueError:
        raise UserError(f"--labels={asked}: write whole numbers with commas between them, or all, or none") from None
    if not num_classes:
        raise UserError(f"--labels={asked}: this model knows no classes; train a conditional one or give a classifier")
    if not all(0 <= label < num_classes for label in chosen):
        raise UserError(f"--labels={asked}: the classes are 0 to {num_classes - 1}")
    return chosen


def objective(config, model, *, num_images):
    """The training objective `(params, examples, key) -> {name: [B]}` of a `Recipe`.

    Args:
      config: configuration.
      model: its network.
      num_images: N of the training set, by which the KL of a posterior is divided.
    """
    random = _random_weights(config)
    if config.task == "denoise":
        return _denoiser_objective(config, model)
    return _negative_elbo(config, model, num_images) if random else _classifier_objective(model)


def _classifier_objective(model):
    """The cross-entropy of noisy images."""

    def terms(params, examples, key):
        log_probs = as_classifier(partial(model.apply, train=True, rngs={"dropout": key}), {"params": params})
        return losses.cross_entropy(log_probs, examples.x_0, examples.keys, examples.transition, label=examples.label)

    return terms


def _negative_elbo(config, model, num_images):
    """`-ELBO / N` over the weights' posterior: the cross-entropy at one sample of the weights, and `KL / N`."""
    fit = _classifier_objective(model)

    def terms(posterior, examples, key):
        terms = fit(bayes.sample_weights(posterior, stream(key, "weights")), examples, key)
        kl = bayes.kl_nats(posterior, prior_std=config.posterior.prior_std)
        kl = jnp.broadcast_to(kl.total / num_images, terms["loss"].shape)
        return {**terms, "loss": terms["loss"] + kl, "data_fit": terms["loss"], "kl": kl}

    return terms


def _denoiser_objective(config, model):
    """The configured loss of the network as a denoiser, which sees the class unless it is hidden."""
    as_network_says = _denoiser_of(config)
    make = _named(LOSSES, config.loss.kind, "loss.kind")
    if config.diffusion.learned_variance != (config.loss.kind != "simple"):
        raise UserError(
            "a learned variance is trained by the bound: set config.diffusion.learned_variance=True together with "
            "config.loss.kind=hybrid or vlb, and False with simple"
        )
    weight = _named(WEIGHTS, config.loss.weight, "loss.weight")
    loss = make(config.diffusion.num_timesteps, weight, config.loss.vlb_weight)

    rate, hidden = config.labels.dropout, config.labels.num_classes

    def terms(params, examples, key):
        apply = partial(model.apply, train=True, rngs={"dropout": key})
        label = hide_labels(examples.label, examples.keys, rate=rate, null=hidden) if rate else examples.label
        denoise = as_network_says(apply, {"params": params}, label=label)
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


def recipe(config, model, *, num_images):
    """What the train step needs besides state and batch; `num_images` as for `objective`."""
    return Recipe(
        objective=objective(config, model, num_images=num_images),
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
    settings = {name: config.sample[name] for name in ("eta", *_NUMBERS)}
    for name in _NUMBERS:
        if not 0 <= settings[name] < math.inf:
            raise UserError(f"{name} must be 0 or a number above it, got {settings[name]:g}")
    return settings


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
    images = _named(SOURCES, data.source, "data.source")(data, shape)
    if config.labels.num_classes not in (0, images.num_classes):
        raise UserError(
            f"the images have {images.num_classes or 'no'} classes and config.labels.num_classes is "
            f"{config.labels.num_classes}"
        )
    return images


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

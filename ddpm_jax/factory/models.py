"""Models from a configuration: network, parameters, denoisers with and without guidance, classifiers, labels."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.config import KEYS, denoises, takes_steps
from ddpm_jax.data.classes import indices
from ddpm_jax.diffusion import bayes
from ddpm_jax.diffusion.arrays import AnyArray, stream
from ddpm_jax.diffusion.guidance import (
    classifier_free,
    classifier_guided,
    clip_x_0,
    hide_labels,
    in_one_batch,
    label_log_prob,
    mean_guided,
)
from ddpm_jax.diffusion.prediction import (
    Denoiser,
    EdmTarget,
    LogProb,
    Regression,
    Target,
    as_classifier,
    as_denoiser,
    with_error,
)
from ddpm_jax.diffusion.sequences import ChainFit
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.factory.chains import Settings, checked_guidance, noise_schedule, sampler_settings
from ddpm_jax.factory.given import check_given, checked_network
from ddpm_jax.factory.lookup import named, plain
from ddpm_jax.models import Architecture, Classifier, UNet

TASKS = KEYS["task"].choices
# How the gradient of a classifier guides a denoiser.
GUIDED_BY: dict[str, Callable[[Denoiser, LogProb, float | jax.Array], Denoiser]] = {
    "score": classifier_guided,
    "mean": mean_guided,
}
# What a network regresses, from the standard deviation of the data.
TARGETS: dict[str, Callable[[float], Regression]] = {
    **{target.value: lambda sigma_data, target=target: target for target in Target},
    "edm": EdmTarget,
}
# Whether the weight of a name is random, or None where no weight is.
RANDOM_WEIGHTS: dict[str, Callable[[str], bool] | None] = {
    "none": None,
    "last": lambda name: name.startswith("pool/out/"),
    "all": lambda name: True,
}

Params: TypeAlias = dict[str, Any] | bayes.MeanField
"""The parameters of a run, by the names of modules and layers, or the posterior over them."""


class ParametricDenoiser(Protocol):
    """A function from parameters, and optionally labels and settings, to a `Denoiser`."""

    def __call__(
        self, params: chex.ArrayTree, label: AnyArray | None = None, settings: Settings | None = None
    ) -> Denoiser:
        """The `Denoiser` of these parameters, for integer labels `[B]`; settings are the configured ones where None."""
        ...


def network(config: ConfigDict, given: nn.Module | None = None) -> nn.Module:
    """The network of `config.model` for the images of `config.data`: a `UNet`, or a `Classifier` for that task.

    Args:
      config: configuration.
      given: the network where `config.network` is "custom", and None elsewhere. It is called as
        `network(x_t, index, label, train=...)`, with images `[B, H, W, C]`, the 0-based time index `t - 1`, float32
        `[B]`, and integer labels `[B]`, and returns `[B, H, W, C]`, or `[B, H, W, 2 C]` with a learned variance; a
        classifier is called without the label and returns logits `[B, K]`. With `config.labels.dropout` a label may
        also be `num_classes`, the null label, so a table of classes needs `num_classes + 1` rows.

    Raises:
      UserError: sizes of the configuration do not fit each other, or the given network cannot be called so.
    """
    named(KEYS["network"].choices, config.network, "network")
    check_given(given, config.network, key="network", argument="network")
    return configured_network(config) if given is None else checked_network(config, given)


def configured_network(config: ConfigDict) -> UNet | Classifier:
    """The network of `config.model`, as for `network`."""
    size, levels = config.data.image_size, len(config.model.channel_mult)
    if not levels:
        raise UserError("config.model.channel_mult needs one number for each level, such as (1, 2, 2)")
    if size % 2 ** (levels - 1):
        raise UserError(
            f"config.data.image_size={size} cannot be halved {levels - 1} times, as the {levels} levels of "
            f"config.model.channel_mult require; use a multiple of {2 ** (levels - 1)} or fewer levels"
        )
    named(KEYS["model.dtype"].choices, config.model.dtype, "model.dtype")
    for level, mult in enumerate(config.model.channel_mult):
        width, groups = config.model.channels * mult, config.model.norm_groups
        if width % groups:
            raise UserError(f"a width of {width} channels is not a multiple of config.model.norm_groups={groups}")
        attends = level == levels - 1 or size >> level in config.model.attention_resolutions
        heads = config.model.head_channels or config.model.num_heads
        if attends and width % heads:
            raise UserError(f"a width of {width} channels cannot be divided evenly into attention heads ({heads})")
    try:
        architecture = Architecture(**{key: plain(value) for key, value in config.model.items()})
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error
    named(TASKS, config.task, "task")
    if not denoises(config):
        if not config.labels.num_classes:
            raise UserError("a classifier needs classes: set their number with config.labels.num_classes")
        return Classifier(architecture, config.labels.num_classes)
    heads = 2 if config.diffusion.learned_variance else 1
    sizes = {"out_channels": heads * config.data.channels, "num_classes": _num_rows(config.labels)}
    return UNet(architecture, **sizes, spans=takes_steps(config))


def _num_rows(labels: ConfigDict) -> int:
    """Rows of the network's table of classes; the last one is the null label where `config.labels.dropout` is set."""
    if labels.dropout and not labels.num_classes:
        raise UserError(
            "config.labels.dropout needs a model with classes: set their number with config.labels.num_classes"
        )
    return labels.num_classes + bool(labels.dropout)


def initial_params(config: ConfigDict, model: nn.Module) -> Callable[[jax.Array], chex.ArrayTree | bayes.MeanField]:
    """A function from a key to the network's parameters, or to the posterior over them (`bayes.MeanField`)."""
    size, channels, random = config.data.image_size, config.data.channels, random_weights(config)
    label = (jnp.zeros(1, jnp.int32),) if denoises(config) else ()

    def init(key: jax.Array) -> chex.ArrayTree | bayes.MeanField:
        params = model.init(key, jnp.zeros((1, size, size, channels)), jnp.zeros(1), *label)["params"]
        if random is None:
            return params
        posterior = bayes.initial_posterior(params, std=config.posterior.init_std, where=random)
        if not jax.tree.leaves(posterior.log_std):
            raise UserError(
                f"config.posterior.weights={config.posterior.weights} selects no weights of this network: use all"
            )
        return posterior

    return init


def shown_labels(config: ConfigDict, label: jax.Array, keys: jax.Array) -> jax.Array:
    """The labels `[B]` that a denoiser is trained with: those of the images, or the null label at the configured rate.

    Args:
      config: configuration.
      label: `[B]`, the labels of the images.
      keys: `[B]` keys, which are consumed where labels are replaced.
    """
    rate, null = config.labels.dropout, config.labels.num_classes
    label = label if null else jnp.zeros_like(label)  # as the chain of an unconditional model
    return hide_labels(label, keys, rate=rate, null=null) if rate else label


def random_weights(config: ConfigDict) -> Callable[[str], bool] | None:
    """Which weights are random, as a function of their names, or None where no weight is.

    Raises:
      UserError: there is no such choice, or the task is not that of a classifier.
    """
    random = named(RANDOM_WEIGHTS, config.posterior.weights, "posterior.weights")
    if random and denoises(config):
        raise UserError("config.posterior.weights applies only to classifiers; set it to none with config.task=denoise")
    return random


def denoiser_of(config: ConfigDict) -> Callable[..., Denoiser]:
    """`as_denoiser` for the configured target and variance, a function `(apply, variables, *, label=None)`."""
    diffusion = config.diffusion
    target = named(TARGETS, diffusion.target, "diffusion.target")(diffusion.sigma_data)
    if diffusion.target == "eps" and noise_schedule(config).ends_in_noise:
        raise UserError(
            "config.diffusion.target=eps says nothing of the image at t = T, where this schedule has no signal left: "
            "choose v, x_0, flow or edm"
        )
    return partial(as_denoiser, target=target, learned_variance=diffusion.learned_variance)


def _guided_by(config: ConfigDict) -> Callable[[Denoiser, LogProb, float | jax.Array], Denoiser]:
    """How the gradient of a classifier guides the denoiser.

    Raises:
      UserError: there is no such choice, or it needs some signal at t = T.
    """
    chosen = config.sample.classifier_on
    if chosen == "score" and noise_schedule(config).ends_in_noise:
        raise UserError(
            "classifier_on=score needs a schedule with some signal at t = T, and this one ends in noise: choose "
            "classifier_on=mean"
        )
    return named(GUIDED_BY, chosen, "sample.classifier_on")


def denoiser(
    config: ConfigDict,
    model: nn.Module,
    *,
    classifier: Callable[[chex.ArrayTree], LogProb] | None = None,
    fit: ChainFit | None = None,
) -> ParametricDenoiser:
    """A function `(params, label=None, settings=None)` to a `Denoiser`, guided and clipped as configured.

    `label` `[B]` is ignored by a model without classes. The scales are settings, except those that leave the denoiser
    unguided (guidance_scale 0 or 1, classifier_scale 0): such a scale costs no second evaluation of the network.

    Args:
      config: configuration.
      model: its network.
      classifier: function from parameters to log probabilities, from `classifier`, or None. With it `params` is
        `{"denoiser", "classifier"}`.
      fit: what was measured of the run; its predictions then have the expected error, which the analytic variance
        needs. Or None.

    Raises:
      UserError: the configuration asks for guidance that the model was not trained for.
    """
    from_network, null, evaluated = denoiser_of(config), config.labels.num_classes, checked_guidance(config)
    guided_by = _guided_by(config) if classifier else None
    order = named(KEYS["sample.clip_order"].choices, config.sample.clip_order, "sample.clip_order")
    clip_before, clip_after = (config.sample.clip_x_0 and order == when for when in ("before", "after"))

    def with_params(
        params: chex.ArrayTree, label: AnyArray | None = None, settings: Settings | None = None
    ) -> Denoiser:
        settings = settings or sampler_settings(config)
        own = params
        if classifier:
            assert isinstance(params, Mapping), "with a classifier params are {'denoiser', 'classifier'}"
            own = params["denoiser"]

        def network(label: AnyArray | None) -> Denoiser:
            denoise = from_network(model.apply, {"params": own}, label=label)
            return clip_x_0(denoise) if clip_before else denoise

        if not evaluated.unconditional:
            denoise = network(label=label)
        elif not evaluated.conditional:
            assert label is not None, "a model with guidance has classes"
            denoise = network(label=jnp.full_like(label, null))
        else:
            assert label is not None, "a model with guidance has classes"
            denoise = guided_by_label(network, label, null=null, scale=settings["guidance_scale"])
        if classifier and guided_by and evaluated.classifier:
            assert isinstance(params, Mapping)
            assert label is not None, "a classifier has classes"
            log_prob = label_log_prob(classifier(params["classifier"]), label)
            denoise = guided_by(denoise, log_prob, settings["classifier_scale"])
        denoise = clip_x_0(denoise) if clip_after else denoise
        return denoise if fit is None else with_error(denoise, fit.x_0_mse)

    return with_params


def guided_by_label(
    network: Callable[[AnyArray], Denoiser], label: AnyArray, *, null: int, scale: float | jax.Array
) -> Denoiser:
    """The denoiser of labels `[B]` by classifier-free guidance, which evaluates both copies of an image in one batch.

    Args:
      network: function from labels `[2 B]` to the `Denoiser` of them.
      label: `[B]` integers.
      null: the null label.
      scale: as for `classifier_free`.
    """
    both = jnp.stack([label, jnp.full_like(label, null)], axis=1).ravel()
    return classifier_free(in_one_batch(network(both)), scale)


def classifier_samples(config: ConfigDict, model: nn.Module) -> Callable[[chex.ArrayTree], LogProb]:
    """A function from parameters to `(x_t, level) -> log p(k | x_t, w)` `[S, B, K]` at S samples of the weights.

    S is 1 where no weight is random. The samples are always the same, so that one classifier guides the whole chain.
    """
    key, num_samples = stream(jax.random.key(config.seed), "posterior"), config.posterior.num_samples

    def with_params(params: chex.ArrayTree) -> LogProb:
        weights = [params]
        if config.posterior.weights != "none":
            assert isinstance(params, bayes.MeanField), "the weights are random"
            weights = [bayes.sample_weights(params, jax.random.fold_in(key, i)) for i in range(num_samples)]
        networks = [as_classifier(model.apply, {"params": sample}) for sample in weights]
        return lambda x_t, level: jnp.stack([network(x_t, level) for network in networks])

    return with_params


def classifier(config: ConfigDict, model: nn.Module) -> Callable[[chex.ArrayTree], LogProb]:
    """A function from parameters to `(x_t, level) -> log p(k | x_t)` `[B, K]`, averaged over the weights' samples."""
    samples = classifier_samples(config, model)

    def with_params(params: chex.ArrayTree) -> LogProb:
        log_probs = samples(params)
        return lambda x_t, level: bayes.predictive_log_prob(log_probs(x_t, level))

    return with_params


def labels(config: ConfigDict, num_classes: int, *, names: Sequence[str] = ()) -> tuple[int, ...]:
    """The classes of `config.sample.labels`, as a tuple of integers that the images take in turn.

    Args:
      config: configuration of the denoiser.
      num_classes: number of classes: the model's own, or those of a classifier that guides it.
      names: the names of these classes, or ().

    Raises:
      UserError: there is no such class, or the model is unconditional.
    """
    asked = config.sample.labels.strip()
    if asked and not num_classes:
        raise UserError(
            f"labels={shortened(asked)}: this model is unconditional; train a conditional one, or let a classifier "
            "guide it first"
        )
    if asked in ("", "all"):
        return tuple(range(num_classes))
    if asked == "none":
        if not config.labels.dropout:
            raise UserError(
                "labels=none: this model was not trained without the class, which needs config.labels.dropout"
            )
        return (config.labels.num_classes,)
    return indices(asked, num_classes=num_classes, names=names)

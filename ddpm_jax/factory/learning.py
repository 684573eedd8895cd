"""Training from a configuration: objective, times, optimiser, and the recipe that a train step takes."""

from collections.abc import Callable
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ddpm_jax.diffusion import bayes, losses, time_sampling
from ddpm_jax.diffusion.arrays import stream
from ddpm_jax.diffusion.guidance import hide_labels
from ddpm_jax.diffusion.prediction import as_classifier
from ddpm_jax.errors import UserError
from ddpm_jax.factory.chains import noise_schedule
from ddpm_jax.factory.models import denoiser_of, random_weights
from ddpm_jax.factory.names import named
from ddpm_jax.training.step import Examples, Objective, Recipe

# From log-SNR `[B]` to the weight of the noise error `[B]`.
WEIGHTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "eps": losses.eps_weight,
    "x_0": losses.x_0_weight,
    "v": losses.v_weight,
    "min_snr": losses.min_snr_weight(),
    "p2": losses.p2_weight(),
}
# From T, the weight of the noise error and the factor of the bound.
LOSSES: dict[str, Callable[[int, Callable[[jax.Array], jax.Array], float], losses.Loss]] = {
    "simple": lambda num_timesteps, weight, vlb_weight: losses.l_simple(weight),
    "hybrid": lambda num_timesteps, weight, vlb_weight: losses.l_hybrid(
        num_timesteps, weight=weight, vlb_weight=vlb_weight
    ),
    "vlb": lambda num_timesteps, weight, vlb_weight: losses.l_vlb(num_timesteps),
}
TIMES: dict[str, Callable[[int], time_sampling.TimeSampler]] = {
    "uniform": time_sampling.uniform,
    "antithetic": time_sampling.antithetic,
    "importance": time_sampling.importance,
}


def objective(config: ConfigDict, model: nn.Module, *, num_images: int) -> Objective:
    """The training objective `(params, examples, key) -> {name: [B]}` of a `Recipe`.

    Args:
      config: configuration.
      model: its network.
      num_images: N, the size of the training set, by which the KL of a posterior is divided.

    Raises:
      UserError: keys of the configuration contradict each other.
    """
    random = random_weights(config)
    if config.task == "denoise":
        return _denoiser_objective(config, model)
    return _negative_elbo(config, model, num_images) if random else _classifier_objective(model)


def _classifier_objective(model: nn.Module) -> Objective:
    """The cross-entropy of a classifier on noisy images."""

    def terms(params: chex.ArrayTree, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        log_probs = as_classifier(partial(model.apply, train=True, rngs={"dropout": key}), {"params": params})
        noisy = (examples.x_0, examples.noise_keys, examples.transition)
        return losses.cross_entropy(log_probs, *noisy, label=examples.label)

    return terms


def _negative_elbo(config: ConfigDict, model: nn.Module, num_images: int) -> Objective:
    """`-ELBO / N` over the weights' posterior: the cross-entropy at samples of the weights, plus `KL / N`.

    Each part of the batch has its own sample, so that the gradient is less noisy than with one sample for all.
    """
    fit, num_samples = _classifier_objective(model), config.posterior.samples_per_step
    part = config.train.batch_size // config.train.accumulation
    if part % num_samples:
        raise UserError(
            f"config.posterior.samples_per_step={num_samples} must divide the {part} images of one part of a "
            "batch, which are batch_size / accumulation"
        )

    def fit_part(posterior: bayes.MeanField, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        return fit(bayes.sample_weights(posterior, stream(key, "weights")), examples, key)

    def terms(posterior: bayes.MeanField, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        parts = jax.tree.map(lambda leaf: leaf.reshape(num_samples, -1, *leaf.shape[1:]), examples)
        terms = jax.vmap(fit_part, (None, 0, 0))(posterior, parts, jax.random.split(key, num_samples))
        terms = jax.tree.map(jnp.ravel, terms)
        kl = bayes.kl_nats(posterior, prior_std=config.posterior.prior_std)
        kl = jnp.broadcast_to(kl.total / num_images, terms["loss"].shape)
        return {**terms, "loss": terms["loss"] + kl, "data_fit": terms["loss"], "kl": kl}

    return terms


def _denoiser_objective(config: ConfigDict, model: nn.Module) -> Objective:
    """The configured loss of the network as a denoiser, conditioned on the class or on the null label in its place."""
    from_network = denoiser_of(config)
    make = named(LOSSES, config.loss.kind, "loss.kind")
    if config.diffusion.learned_variance != (config.loss.kind != "simple"):
        raise UserError(
            "a learned variance is trained with the variational bound: set config.diffusion.learned_variance=True "
            "together with config.loss.kind=hybrid or vlb, and False with simple"
        )
    weight = named(WEIGHTS, config.loss.weight, "loss.weight")
    loss = make(config.diffusion.num_timesteps, weight, config.loss.vlb_weight)

    rate, null = config.labels.dropout, config.labels.num_classes

    def terms(params: chex.ArrayTree, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        apply = partial(model.apply, train=True, rngs={"dropout": key})
        label = hide_labels(examples.label, examples.label_keys, rate=rate, null=null) if rate else examples.label
        denoise = from_network(apply, {"params": params}, label=label)
        return loss(denoise, examples.x_0, examples.noise_keys, examples.transition)

    return terms


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate as a function of the step: a linear warm-up from 0, then constant."""
    optim = config.optim
    if not optim.warmup_steps:
        return optax.constant_schedule(optim.learning_rate)
    return optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam, after the gradient is clipped by its global norm where `config.optim.grad_clip` is above 0."""
    optim = config.optim
    clip = optax.clip_by_global_norm(optim.grad_clip) if optim.grad_clip else optax.identity()
    return optax.chain(clip, optax.adam(learning_rate(config), optim.beta_1, optim.beta_2, optim.epsilon))


def recipe(config: ConfigDict, model: nn.Module, *, num_images: int) -> Recipe:
    """What the train step needs besides state and batch; `num_images` is as for `objective`."""
    return Recipe(
        objective=objective(config, model, num_images=num_images),
        times=named(TIMES, config.loss.times, "loss.times")(config.diffusion.num_timesteps),
        transitions=noise_schedule(config).transitions(),
        optimizer=optimizer(config),
        ema_decay=config.optim.ema_decay,
        accumulation=config.train.accumulation,
        random_flip=config.data.random_flip,
    )

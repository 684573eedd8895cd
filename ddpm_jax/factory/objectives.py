"""Training from a configuration: objective, times, optimiser, and the spec that a train step takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ddpm_jax.config import denoises, distils
from ddpm_jax.diffusion import bayes, losses, time_sampling
from ddpm_jax.diffusion.arrays import stream
from ddpm_jax.diffusion.distillation import Shortening
from ddpm_jax.diffusion.prediction import as_classifier
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.errors import UserError
from ddpm_jax.factory.chains import noise_schedule
from ddpm_jax.factory.given import check_callable, check_given
from ddpm_jax.factory.lookup import named
from ddpm_jax.factory.models import denoiser_of, initial_params, random_weights, shown_labels
from ddpm_jax.factory.students import curriculum, student_objective
from ddpm_jax.training.state import StateInit, Teacher, TrainState, initial_state
from ddpm_jax.training.step import NOT_TERMS, Examples, Objective, TrainSpec

# From the standard deviation of the data to a function from log-SNR `[B]` to the weight of the noise error `[B]`.
WEIGHTS: dict[str, Callable[[float], losses.Weight]] = {
    "eps": lambda sigma_data: losses.eps_weight,
    "x_0": lambda sigma_data: losses.x_0_weight,
    "v": lambda sigma_data: losses.v_weight,
    "flow": lambda sigma_data: losses.flow_weight,
    "edm": losses.edm_weight,
    "min_snr": lambda sigma_data: losses.min_snr_weight(),
    "p2": lambda sigma_data: losses.p2_weight(),
    "sigmoid": lambda sigma_data: losses.sigmoid_weight(),
}
# From the schedule, the weight of the noise error and the factor of the bound.
LOSSES: dict[str, Callable[[NoiseSchedule, losses.Weight, float], losses.Loss]] = {
    "simple": lambda schedule, weight, vlb_weight: losses.l_simple(weight, ends_in_noise=schedule.ends_in_noise),
    "hybrid": lambda schedule, weight, vlb_weight: losses.l_hybrid(
        schedule.num_timesteps, weight=weight, vlb_weight=vlb_weight
    ),
    "vlb": lambda schedule, weight, vlb_weight: losses.l_vlb(schedule.num_timesteps),
}
TIMES: dict[str, Callable[[NoiseSchedule], time_sampling.TimeSampler]] = {
    "uniform": lambda schedule: time_sampling.uniform(schedule.num_timesteps),
    "antithetic": lambda schedule: time_sampling.antithetic(schedule.num_timesteps),
    "importance": lambda schedule: time_sampling.importance(schedule.num_timesteps),
    "log_snr": time_sampling.uniform_log_snr,
    "log_normal": lambda schedule: time_sampling.normal_log_snr(schedule, mean=2.4, std=2.4),
    "logit_normal": lambda schedule: time_sampling.normal_log_snr(schedule, mean=0.0, std=2.0),
    "learned": lambda schedule: time_sampling.learned(schedule.num_timesteps),
}
_INTEGER = ("uniform", "antithetic", "importance")  # of `TIMES`: the others draw floats


def objective(
    config: ConfigDict,
    model: nn.Module,
    *,
    num_images: int | None,
    loss: losses.Loss | None = None,
    train: bool = True,
) -> Objective:
    """The training objective `(params, examples, key) -> {name: [B]}` of a `TrainSpec`.

    Args:
      config: configuration.
      model: its network.
      num_images: N, the size of the training set, by which the KL of a posterior is divided; None if it is unknown.
      loss: the loss where `config.loss.kind` is "custom", and None elsewhere.
      train: whether the network is applied with dropout, as in a train step.

    Raises:
      UserError: keys of the configuration contradict each other.
    """
    random = random_weights(config)
    check_given(loss, config.loss.kind, key="loss.kind", argument="loss")
    if loss is not None:
        check_callable(loss, "loss=", "denoise", "x_0", "keys", "transition")
    apply = partial(model.apply, train=train)
    if distils(config):
        if loss is not None:
            raise UserError("loss= does not apply to a student, whose loss compares it with its teacher: leave it out")
        return student_objective(config, model, apply)
    if denoises(config):
        return _denoiser_objective(config, apply, loss or _configured_loss(config))
    if loss is not None:
        raise UserError(
            "loss= applies only to a denoiser; a classifier is trained with the cross-entropy: leave loss= out"
        )
    if not random:
        return _classifier_objective(apply)
    if num_images is None:
        raise UserError("a posterior over weights needs the size of the training set: give a Source and not batches")
    return _negative_elbo(config, apply, num_images)


def _classifier_objective(apply: Callable[..., Any]) -> Objective:
    """The cross-entropy of a classifier on noisy images."""

    def terms(params: chex.ArrayTree, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        log_probs = as_classifier(partial(apply, rngs={"dropout": key}), {"params": params})
        noisy = (examples.x_0, examples.noise_keys, examples.transition)
        return losses.cross_entropy(log_probs, *noisy, label=examples.label)

    return terms


def _negative_elbo(config: ConfigDict, apply: Callable[..., Any], num_images: int) -> Objective:
    """`-ELBO / N` over the weights' posterior: the cross-entropy at samples of the weights, plus `KL / N`.

    Each part of the batch has its own sample, so that the gradient is less noisy than with one sample for all.
    """
    fit, num_samples = _classifier_objective(apply), config.posterior.samples_per_step
    part = config.train.batch_size // config.train.accumulation
    if part % num_samples:
        raise UserError(
            f"config.posterior.samples_per_step={num_samples} must divide the {part} images of one part of a "
            "batch, which are batch_size / accumulation"
        )

    def part_terms(posterior: bayes.MeanField, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        others = {}

        def log_likelihood(weights: chex.ArrayTree) -> jax.Array:  # of each image, [b]
            others.update(fit(weights, examples, key))
            return -others["loss"]

        eps = bayes.standard_noise(posterior, stream(key, "weights"))
        elbo = bayes.elbo_nats(log_likelihood, posterior, eps, prior_std=config.posterior.prior_std)
        loss = -elbo.per_example(num_images)
        kl = jnp.broadcast_to(elbo.kl.total / num_images, loss.shape)
        return {**others, "loss": loss, "data_fit": -elbo.data_fit, "kl": kl}

    def terms(posterior: chex.ArrayTree, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        assert isinstance(posterior, bayes.MeanField), "the weights are random"
        parts = jax.tree.map(lambda leaf: leaf.reshape(num_samples, -1, *leaf.shape[1:]), examples)
        terms = jax.vmap(part_terms, (None, 0, 0))(posterior, parts, jax.random.split(key, num_samples))
        return jax.tree.map(jnp.ravel, terms)

    return terms


def _configured_loss(config: ConfigDict) -> losses.Loss:
    """The loss that `config.loss` names.

    Raises:
      UserError: there is no such loss or weight, or the loss does not suit the variance of the network.
    """
    make = named(LOSSES, config.loss.kind, "loss.kind")
    if config.diffusion.learned_variance != (config.loss.kind != "simple"):
        raise UserError(
            "a learned variance is trained with the variational bound: set config.diffusion.learned_variance=True "
            "together with config.loss.kind=hybrid or vlb, and False with simple"
        )
    if config.loss.kind != "simple" and config.loss.times not in _INTEGER:
        raise UserError(
            f"config.loss.times={config.loss.times} draws times between those of the chain, of which the bound has no "
            f"terms: set config.loss.times to {', '.join(_INTEGER[:-1])} or {_INTEGER[-1]}"
        )
    weight = named(WEIGHTS, config.loss.weight, "loss.weight")(config.diffusion.sigma_data)
    schedule = noise_schedule(config)
    if config.loss.kind != "simple" and schedule.ends_in_noise:
        raise UserError(
            f"config.loss.kind={config.loss.kind} needs a schedule with some signal at t = T, and this one ends in "
            "noise: set config.loss.kind=simple and config.diffusion.learned_variance=False"
        )
    return make(schedule, weight, config.loss.vlb_weight)


def _denoiser_objective(config: ConfigDict, apply: Callable[..., Any], loss: losses.Loss) -> Objective:
    """A loss of the network as a denoiser, conditioned on the class or on the null label in its place."""
    from_network = denoiser_of(config)

    def terms(params: chex.ArrayTree, examples: Examples, key: jax.Array) -> dict[str, jax.Array]:
        label = shown_labels(config, examples.label, examples.label_keys)
        denoise = from_network(partial(apply, rngs={"dropout": key}), {"params": params}, label=label)
        return _checked_terms(loss(denoise, examples.x_0, examples.noise_keys, examples.transition), examples)

    return terms


def _checked_terms(terms: dict[str, jax.Array], examples: Examples) -> dict[str, jax.Array]:
    """The terms of a loss, after a check of their names and shapes while the step is traced.

    Raises:
      UserError: they are not `{"loss": [B], ...}`, or the log already uses the name of one of them.
    """
    right = isinstance(terms, dict) and "loss" in terms and all(isinstance(name, str) for name in terms)
    if not right or {jnp.shape(term) for term in terms.values()} != {examples.label.shape}:
        shapes = {name: jnp.shape(term) for name, term in terms.items()} if isinstance(terms, dict) else terms
        raise UserError(f'a loss must return {{"loss": [B], ...}}, one number per image in every term, not {shapes}')
    taken = terms.keys() & {*NOT_TERMS, *(f"{name}_t{quarter}" for name in terms for quarter in range(1, 5))}
    taken |= {name for name in terms if name.startswith("held_out_")}
    if taken:
        raise UserError(f"the log already uses the name {sorted(taken)[0]!r}: give this term of the loss another name")
    return terms


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate as a function of the step: a linear warm-up from 0, then constant or falling linearly to 0.

    Warm-up and decay restart where a student becomes the teacher.
    """
    rate, lessons = _rate_of_stage(config), curriculum(config)
    if not isinstance(lessons, Shortening):
        return rate
    return lambda step: rate(step - lessons.length * lessons.stage(step))


def _rate_of_stage(config: ConfigDict) -> optax.Schedule:
    """The same as a function of the steps that the optimiser has taken since it started."""
    optim, rate = config.optim, optax.constant_schedule(config.optim.learning_rate)
    if optim.decay_steps:
        rate = optax.linear_schedule(optim.learning_rate, 0.0, optim.decay_steps)
    if not optim.warmup_steps:
        return rate
    rising = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)
    return optax.join_schedules([rising, rate], [optim.warmup_steps]) if optim.decay_steps else rising


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam, after the gradient is clipped by its global norm where `config.optim.grad_clip` is above 0."""
    optim = config.optim
    clip = optax.clip_by_global_norm(optim.grad_clip) if optim.grad_clip else optax.identity()
    return optax.chain(clip, optax.adam(_rate_of_stage(config), optim.beta_1, optim.beta_2, optim.epsilon))


def train_spec(
    config: ConfigDict, model: nn.Module, *, num_images: int | None, loss: losses.Loss | None = None
) -> TrainSpec:
    """What the train step needs besides state and batch; the arguments are those of `objective`."""
    schedule = noise_schedule(config)
    return TrainSpec(
        objective=objective(config, model, num_images=num_images, loss=loss),
        times=named(TIMES, config.loss.times, "loss.times")(schedule),
        transitions=schedule.transitions(),
        optimizer=optimizer(config),
        ema_decay=config.optim.ema_decay,
        accumulation=config.train.accumulation,
        random_flip=config.data.random_flip,
        threshold=config.train.divergence_threshold,
        curriculum=curriculum(config),
    )


def state_init(config: ConfigDict, model: nn.Module, spec: TrainSpec) -> StateInit:
    """A function from the root key to the `TrainState` at step 0; that of a student has its own random parameters.

    `training.state.taught` puts those of the teacher in their place.
    """
    params = initial_params(config, model)
    new = partial(initial_state, init_params=params, optimizer=spec.optimizer, times=spec.times)

    def with_teacher(key: jax.Array) -> TrainState:
        state = new(key)
        return state.replace(teacher=Teacher(state.params, jnp.zeros((), jnp.int32)))

    return with_teacher if isinstance(spec.curriculum, Shortening) else new

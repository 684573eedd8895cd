"""The train step: a pure function from (state, batch) to (state, metrics) (Ho et al. 2020, algorithm 1).

It scales the images to [-1, 1] and flips them, draws times and noise, computes the loss and its gradient (in several
parts of the batch if gradients are accumulated), and updates the parameters and their moving average. Its randomness
comes from the key `fold_in(state.key, state.step)`, which is split by name, with one key per image.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import chex
import flax
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from ddpm_jax.diffusion.arrays import Array, expand_like, image_keys, stream
from ddpm_jax.diffusion.continuous import transitions_at
from ddpm_jax.diffusion.distillation import Curriculum
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.diffusion.time_sampling import TimeSampler
from ddpm_jax.errors import UserError, first_line
from ddpm_jax.training import divergence
from ddpm_jax.training.goodput import SECONDS
from ddpm_jax.training.state import Teacher, TrainState, at_stage, ema_update, passed_over

Batch: TypeAlias = dict[str, Array]
"""A batch of a data set: `{"image": uint8 [B, H, W, C], "label": int32 [B]}`."""

Metrics: TypeAlias = dict[str, Array | dict[str, Array]]
"""The metrics of one step, see `train_step`: numbers `[]`, and sums and counts `[4]` by quarter of t."""

NOT_TERMS = (
    "step",
    "grad_norm",
    "learning_rate",
    "steps_per_s",
    "images_per_s",
    "mfu",
    "fd",
    "diverged",
    "passed_over",
    "rolled_back_from",
    "spikes",
    *SECONDS.values(),
    "quarter_sums",
    "quarter_count",
)
"""Names of other numbers in the metrics and in the log, which no term of an objective may have."""

TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
"""A train step whose `TrainSpec` is fixed: `(state, batch) -> (new state, metrics)`."""


class Examples(NamedTuple):
    """The inputs of the training loss; every leaf starts with the batch axis.

    Attributes:
      x_0: `[B, H, W, C]` float32 in [-1, 1].
      label: `[B]` integers.
      noise_keys: `[B]` keys for the noise of each image; the loss consumes them.
      label_keys: `[B]` keys for the draw that decides whether an image's label is replaced by the null label.
      transition: `Transition` with leaves `[B]`, which gives each image its time.
      weight: `[B]`, the factor of each image's loss that corrects for the distribution of the times.
    """

    x_0: Array
    label: Array
    noise_keys: Array
    label_keys: Array
    transition: Transition
    weight: Array


Objective: TypeAlias = Callable[..., dict[str, Array]]
"""`(params, examples, key) -> {name: [B]}`, of which "loss" is minimised; the key is for dropout.

That of a student also takes `teacher=`, its `Teacher`, if another network teaches it.
"""


@dataclass(frozen=True)
class TrainSpec:
    """Everything a train step needs besides state and batch.

    Attributes:
      objective: the `Objective`, whose term "loss" is minimised.
      times: `TimeSampler`, how training times are drawn.
      transitions: all T transitions of the schedule, leaves `[T]`, in decreasing time.
      optimizer: optax gradient transformation.
      ema_decay: the decay of the moving average of the parameters, from 0 to below 1.
      accumulation: the number of parts into which the batch is cut and which are computed one after the other, to
        save memory.
      random_flip: whether each image is mirrored with probability one half.
      threshold: of a loss or a gradient norm that stands out, see `divergence.diverged`; 0 for none.
      curriculum: what a student learns after so many steps; None for all other runs.
    """

    objective: Objective
    times: TimeSampler
    transitions: Transition
    optimizer: optax.GradientTransformation
    ema_decay: float = 0.9999
    accumulation: int = 1
    random_flip: bool = False
    threshold: float = 0.0
    curriculum: Curriculum | None = None


def augment(images: Array, keys: Array, *, random_flip: bool) -> Array:
    """Returns float32 images in [-1, 1], each mirrored left to right with probability one half if `random_flip` is set.

    Args:
      images: uint8 `[B, H, W, C]`.
      keys: `[B]` keys, which the flips consume.
      random_flip: whether to flip at all.
    """
    # `x / 127.5 - 1` would be compiled to one multiply-add, which maps 255 to 1.0000001.
    x_0 = (images.astype(jnp.float32) - 127.5) / 127.5
    if not random_flip:
        return x_0
    heads = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(expand_like(heads, x_0), x_0[:, :, ::-1], x_0)


def draw_examples(
    spec: TrainSpec, batch: Batch, key: Array, *, times_state: chex.ArrayTree, step: ArrayLike = 0
) -> Examples:
    """Draws everything that is random in a step, except dropout, for a batch of uint8 images and labels.

    Each image has a key of its own, whose named streams are for the noise, the flip and the null label.

    Args:
      spec: the times, the transitions, a student's curriculum and the flips.
      batch: `{"image": uint8 [B, H, W, C], "label": int32 [B]}`.
      key: the key `[]` of the step.
      times_state: the state of `spec.times`.
      step: the number of steps so far `[]`, by which a student's transitions change.
    """
    batch_size, num_timesteps = len(batch["image"]), spec.transitions.num_steps
    keys = image_keys(stream(key, "images"), jnp.arange(batch_size))
    times, weight = spec.times.draw(times_state, stream(key, "times"), batch_size)
    if spec.curriculum:
        transition = spec.curriculum.transition(times, jnp.asarray(step))
    elif jnp.issubdtype(times.dtype, jnp.floating):
        transition = transitions_at(spec.transitions, times)
    else:
        transition = jax.tree.map(lambda leaf: jnp.asarray(leaf)[num_timesteps - times], spec.transitions)
    x_0 = augment(batch["image"], stream(keys, "flip"), random_flip=spec.random_flip)
    return Examples(x_0, batch["label"], stream(keys, "noise"), stream(keys, "label"), transition, weight)


def check_batch(batch: Mapping[str, Any]) -> None:
    """Raises a `UserError` if a batch is not `{"image": uint8 [B, H, W, C], "label": integers [B]}`.

    It reads only shapes and types, so a compiled step makes this check once, while it is traced.
    """
    wanted = '{"image": uint8 [B, H, W, C], "label": int32 [B]}'
    missing = [name for name in ("image", "label") if not isinstance(batch, Mapping) or name not in batch]
    if missing:
        held = f"keys {', '.join(map(str, batch)) or 'none'}" if isinstance(batch, Mapping) else type(batch).__name__
        raise UserError(
            f"a batch must be {wanted}, and {' and '.join(map(repr, missing))} is missing ({held}); images without "
            "classes have the label 0"
        )
    image, label = batch["image"], batch["label"]
    for name, array in (("image", image), ("label", label)):
        if not hasattr(array, "dtype"):
            raise UserError(
                f"a batch must be {wanted} with arrays, and its {name!r} is of the type {type(array).__name__}: "
                "convert it with numpy.asarray"
            )
    if image.dtype != jnp.uint8:
        raise UserError(
            f"the images of a batch must be uint8 in 0..255, not {image.dtype}: the train step scales them to [-1, 1] "
            "itself; convert images in [-1, 1] with ddpm_jax.to_uint8"
        )
    if image.ndim != 4 or label.shape != image.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
        raise UserError(
            f"a batch must be {wanted}; its images have the shape {list(image.shape)}, and its labels the shape "
            f"{list(label.shape)} and the type {label.dtype}"
        )


@contextlib.contextmanager
def _fitting(batch: Batch) -> Iterator[None]:
    """Turns Flax's error about parameters for other images (with more channels, for example) into a `UserError`."""
    try:
        yield
    except flax.errors.ScopeParamShapeError as error:
        raise UserError(
            f"images of shape {list(batch['image'].shape[1:])} do not fit the network's parameters: {first_line(error)}"
        ) from error


def mean_gradient(
    spec: TrainSpec, params: chex.ArrayTree, examples: Examples, key: Array
) -> tuple[chex.ArrayTree, dict[str, Array]]:
    """Returns the gradient of `mean(weight * loss)` over the batch and the terms of the objective, `{name: [B]}`.

    Both are computed in `spec.accumulation` parts; the key `[]` is for dropout.
    """

    def mean_loss(params: chex.ArrayTree, part: Examples, key: Array) -> tuple[Array, dict[str, Array]]:
        terms = spec.objective(params, part, key)
        return jnp.mean(part.weight * terms["loss"]), terms

    gradient = jax.grad(mean_loss, has_aux=True)
    parts = spec.accumulation
    if parts == 1:
        return gradient(params, examples, key)

    def add_part(total: chex.ArrayTree, indexed: tuple[Array, Examples]) -> tuple[chex.ArrayTree, dict[str, Array]]:
        index, part = indexed
        grads, terms = gradient(params, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, grads), terms

    # Part i takes images i, i + parts, ...: each device then cuts what it holds and nothing moves between devices.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), examples)
    zeros = jax.tree.map(jnp.zeros_like, params)
    total, terms = jax.lax.scan(add_part, zeros, (jnp.arange(parts), cut))
    terms = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1), terms)
    return jax.tree.map(lambda x: x / parts, total), terms


def by_quarter(
    terms: dict[str, Array], examples: Examples, *, num_timesteps: int
) -> dict[str, Array | dict[str, Array]]:
    """Returns the unweighted sums of every term by quarter of t, and the number of images in each.

    Args:
      terms, examples, num_timesteps: as for `summarise`.

    Returns:
      "quarter_sums", `{name: [4]}`, and "quarter_count", `[4]`.
    """
    quarter = jnp.minimum((4 * (examples.transition.now.t - 1)) // num_timesteps, 3)
    member = (quarter[:, None] == jnp.arange(4)[None, :]).astype(jnp.float32)
    return {
        "quarter_sums": {name: term @ member for name, term in terms.items()},
        "quarter_count": jnp.sum(member, axis=0),
    }


def summarise(terms: dict[str, Array], grads: chex.ArrayTree, examples: Examples, *, num_timesteps: int) -> Metrics:
    """Returns the metrics of a step.

    Args:
      terms: `{name: [B]}`, the terms of the objective.
      grads: the gradient of the mean loss.
      examples: the examples of the step, `[B]`.
      num_timesteps: T.

    Returns:
      The weighted mean of every term under its name, `[]`; "grad_norm" `[]`; and what `by_quarter` returns.
    """
    return {
        **{name: jnp.mean(examples.weight * term) for name, term in terms.items()},
        "grad_norm": optax.tree.norm(grads),
        **by_quarter(terms, examples, num_timesteps=num_timesteps),
    }


def train_step(spec: TrainSpec, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Takes one step, whose parts have these names in a profile: examples, gradient, metrics, optimizer, ema.

    A step that diverged is passed over, in the same program.

    Args:
      spec: the objective, the times and the optimiser; static under `jax.jit`.
      state: the state before the step.
      batch: `{"image": uint8 [B, H, W, C], "label": int32 [B]}`.

    Returns:
      The new state and the metrics of `summarise`, with "diverged", a boolean `[]`, and "passed_over", the number of
      steps of the run so far that were passed over, int32 `[]`.

    Raises:
      UserError: the batch does not have this form, or its images do not have the shape that the network expects.
    """
    check_batch(batch)
    spec, state = _in_stage(spec, state)
    key = jax.random.fold_in(state.key, state.step)
    with jax.named_scope("examples"):
        examples = draw_examples(spec, batch, key, times_state=state.times, step=state.step)
    with _fitting(batch), jax.named_scope("gradient"):
        grads, terms = mean_gradient(spec, state.params, examples, stream(key, "dropout"))
    with jax.named_scope("metrics"):
        metrics = summarise(terms, grads, examples, num_timesteps=spec.transitions.num_steps)
        diverged = divergence.diverged(metrics, state.recent, threshold=spec.threshold)
    with jax.named_scope("optimizer"):
        updates, opt_state = spec.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    held = passed_over(state)
    with jax.named_scope("ema"):
        ema_params = ema_update(state.ema_params, params, step=held.step, decay=spec.ema_decay)
    taken = held.replace(
        params=params,
        ema_params=ema_params,
        opt_state=opt_state,
        times=spec.times.update(state.times, jnp.asarray(examples.transition.now.t), terms["loss"]),
        recent=divergence.with_step(state.recent, metrics),
    )
    new = jax.tree.map(lambda old, new: old if old is new else jnp.where(diverged, old, new), held, taken)
    return new, {**metrics, "diverged": diverged, "passed_over": new.recent.passed_over}


def _in_stage(spec: TrainSpec, state: TrainState) -> tuple[TrainSpec, TrainState]:
    """Returns a student's spec and state in the stage of its next step, and those of any other run as they are."""
    if spec.curriculum is None or not isinstance(state.teacher, Teacher):
        return spec, state
    state = at_stage(state, spec.curriculum.stage(state.step), spec.optimizer)
    assert isinstance(state.teacher, Teacher), "a stage changes only what it holds"
    return replace(spec, objective=partial(spec.objective, teacher=state.teacher)), state


def gathering(step: TrainStep) -> Callable[[TrainState, tuple[Batch, Array]], tuple[TrainState, Metrics]]:
    """Returns a train step that gathers its batch on the device from a data set that is there already.

    In place of a batch it takes the pair of the data set, leaves `[N, ...]`, and integer indices `[B]` into it.
    """

    def gathered(state: TrainState, batch: tuple[Batch, Array]) -> tuple[TrainState, Metrics]:
        data, index = batch
        return step(state, jax.tree.map(lambda leaf: leaf[index], data))

    return gathered

"""Guidance: functions from `Denoiser` to `Denoiser`, which change the prediction, compose, and suit every sampler.

The score of images of class y is `grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)`. A classifier of noisy
images gives the last term (`classifier_guided`). A network that was trained both with and without the class predicts
the other two scores, and the last term is their difference (`classifier_free`). A scale above 1 on that term gives
clearer and less diverse images. Read next: `samplers/`.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, expand_like
from ddpm_jax.diffusion.prediction import Denoiser, LogProb, Prediction, eps_from_x_0
from ddpm_jax.diffusion.schedules import NoiseLevel

PairDenoiser: TypeAlias = Callable[[Array, NoiseLevel], tuple[Prediction, Prediction]]
"""A function `(x_t, level) -> (conditional, unconditional)`, both predictions of the same images."""


def clip_x_0(denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Clips the estimate of x_0 to the range of images and recomputes eps from it, so that the two still give x_t.

    Published samplers and bits per dimension use it; training does not (Ho et al. 2020's code, `clip_denoised`).
    """

    def clipped(x_t: Array, level: NoiseLevel) -> Prediction:
        prediction = denoise(x_t, level)
        x_0 = jnp.clip(prediction.x_0, low, high)
        return prediction._replace(x_0=x_0, eps=eps_from_x_0(x_0, x_t, level))

    return clipped


def classifier_free(both: PairDenoiser, scale: float | Array) -> Denoiser:
    r"""`eps = scale eps(x_t, y) + (1 - scale) eps(x_t)`: classifier-free guidance.

    $$ \tilde\epsilon_\theta(x_t, y) = (1 + w)\, \epsilon_\theta(x_t, y) - w\, \epsilon_\theta(x_t) $$

    [Ho & Salimans 2022](https://arxiv.org/abs/2207.12598), eq. 6; `scale = 1 + w`.

    Scale 1 gives exactly the conditional denoiser and scale 0 exactly the unconditional one. The variance is always
    that of the conditional one.

    Args:
      both: function `(x_t, level) -> (conditional, unconditional)`, two `Prediction`s, from `in_one_batch` or
        `side_by_side`.
      scale: number; may be traced.
    """

    def guided(x_t: Array, level: NoiseLevel) -> Prediction:
        conditional, unconditional = both(x_t, level)
        x_0 = scale * conditional.x_0 + (1 - scale) * unconditional.x_0
        eps = scale * conditional.eps + (1 - scale) * unconditional.eps
        return conditional._replace(x_0=x_0, eps=eps)

    return guided


def in_one_batch(denoise: Denoiser) -> PairDenoiser:
    """`both` for `classifier_free` from one denoiser, whose labels `[2 B]` are each image's class and the null label.

    The two copies of an image are neighbours in the batch, so that devices need not exchange images.
    """

    def both(x_t: Array, level: NoiseLevel) -> tuple[Prediction, Prediction]:
        twice = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0) if jnp.ndim(leaf) else leaf, (x_t, level))
        prediction = denoise(*twice)
        return tuple(jax.tree.map(lambda leaf, first=first: leaf[first::2], prediction) for first in (0, 1))

    return both


def side_by_side(conditional: Denoiser, unconditional: Denoiser) -> PairDenoiser:
    """`both` for `classifier_free` from two denoisers."""
    return lambda x_t, level: (conditional(x_t, level), unconditional(x_t, level))


def classifier_guided(denoise: Denoiser, log_prob: LogProb, scale: float | Array) -> Denoiser:
    r"""`eps - sqrt(1 - alpha_bar_t) scale grad log p(y | x_t)`: classifier guidance, for any sampler.

    $$ \hat\epsilon(x_t) = \epsilon_\theta(x_t) - \sqrt{1 - \bar\alpha_t}\ \gamma\, \nabla_{x_t} \log p(y \mid x_t) $$

    [Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233), algorithm 2; gamma is `scale`.

    Scale 1 gives the conditional denoiser if the classifier is exact; scale 0 gives `denoise` itself. The variance is
    unchanged.

    Args:
      denoise: `Denoiser`.
      log_prob: function `(x_t, level) -> log p(y | x_t)` `[B]`, where y is the class that each image should have.
      scale: number; may be traced.
    """

    def guided(x_t: Array, level: NoiseLevel) -> Prediction:
        prediction, gradient = denoise(x_t, level), _gradient(log_prob, x_t, level)
        sigma, signal = expand_like(level.sigma, x_t), expand_like(level.signal, x_t)
        return prediction._replace(
            x_0=prediction.x_0 + scale * sigma**2 / signal * gradient, eps=prediction.eps - scale * sigma * gradient
        )

    return guided


def mean_guided(denoise: Denoiser, log_prob: LogProb, scale: float | Array) -> Denoiser:
    r"""Classifier guidance of the ancestral step alone, whose mean it shifts by `var scale grad log p(y | x_t)`.

    $$ \hat\mu = \mu_\theta(x_t, t) + \gamma\, \sigma_t^2\, \nabla_{x_t} \log p(y \mid x_t) $$

    [Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233), algorithm 1; gamma is `scale`, and the gradient is taken
    at x_t, as in their code. The estimates x_0 and eps are unchanged, so clipping them does not clip the guidance.
    `classifier_guided` differs by terms of second order in the step, and suits every sampler.

    Args:
      denoise, log_prob, scale: as for `classifier_guided`.
    """

    def guided(x_t: Array, level: NoiseLevel) -> Prediction:
        return denoise(x_t, level)._replace(mean_gradient=scale * _gradient(log_prob, x_t, level))

    return guided


def _gradient(log_prob: LogProb, x_t: Array, level: NoiseLevel) -> Array:
    """`grad log p(y | x_t)` `[B, ...]`."""
    return jax.grad(lambda x: jnp.sum(log_prob(x, level)))(x_t)


def label_log_prob(log_probs: LogProb, label: AnyArray) -> LogProb:
    """`log p(y | x_t)` `[B]` for `classifier_guided`, from all log probabilities `[B, K]` and the classes y `[B]`."""
    return lambda x_t, level: jnp.take_along_axis(log_probs(x_t, level), label[:, None], axis=1)[:, 0]


def hide_labels(label: AnyArray, keys: Array, *, rate: float, null: int) -> Array:
    """Replaces each label `[B]` by `null` with probability `rate`, so that one network learns both denoisers.

    Args:
      label: `[B]` integers.
      keys: `[B]` keys, one per image, which this function consumes.
      rate: probability of the replacement, in [0, 1].
      null: the null label, which stands for no class.
    """
    hidden = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(hidden, null, label)

"""Changes to what a denoiser says: functions from `Denoiser` to `Denoiser`, which compose and suit every sampler.

"I want a seven": the score of images of class y is `grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)`. A
classifier that knows t gives the last term (`classifier_guided`); or a network that was trained with the class and
without it knows both sides, and the term is their difference (`classifier_free`). Either may be exaggerated by a
scale above 1, for clearer and less diverse images. Read next: `samplers/`.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import Array, expand_like
from ddpm_jax.diffusion.prediction import eps_from_x_0


def clip_x_0(denoise, low=-1.0, high=1.0):
    """Clips the estimate of x_0 to the range of images and recomputes the noise, so that the two still explain x_t.

    Published samplers and bits per dimension all do this; training does not (Ho et al. 2020's code, `clip_denoised`).
    """

    def clipped(x_t, level):
        prediction = denoise(x_t, level)
        x_0 = jnp.clip(prediction.x_0, low, high)
        return prediction._replace(x_0=x_0, eps=eps_from_x_0(x_0, x_t, level))

    return clipped


def classifier_free(both, scale):
    """`eps = scale eps(x_t, y) + (1 - scale) eps(x_t)` (Ho & Salimans 2022, eq. 6, where `scale = 1 + w`).

    Scale 1 is the conditional denoiser, 0 the unconditional one, each exactly. The variance is the conditional one's.

    Args:
      both: function `(x_t, level) -> (conditional, unconditional)`, two `Prediction`s, from `in_one_batch` or
        `side_by_side`.
      scale: number; may be traced.
    """

    def guided(x_t, level):
        conditional, unconditional = both(x_t, level)
        x_0 = scale * conditional.x_0 + (1 - scale) * unconditional.x_0
        eps = scale * conditional.eps + (1 - scale) * unconditional.eps
        return conditional._replace(x_0=x_0, eps=eps)

    return guided


def in_one_batch(denoise):
    """`both` for `classifier_free` from one denoiser, whose labels `[2 B]` are each image's class and the hidden class.

    Every image stands beside its double, not half a batch away, so that no device needs what another holds.
    """

    def both(x_t, level):
        twice = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0) if jnp.ndim(leaf) else leaf, (x_t, level))
        prediction = denoise(*twice)
        return tuple(jax.tree.map(lambda leaf, first=first: leaf[first::2], prediction) for first in (0, 1))

    return both


def side_by_side(conditional, unconditional):
    """`both` for `classifier_free` from two denoisers."""
    return lambda x_t, level: (conditional(x_t, level), unconditional(x_t, level))


def classifier_guided(denoise, log_prob, scale):
    """`eps - sqrt(1 - alpha_bar_t) scale grad log p(y | x_t)` (Dhariwal & Nichol 2021, algorithm 2, for any sampler).

    Scale 1 is the conditional denoiser if the classifier is right, 0 is `denoise` itself. The variance stays as it is.

    Args:
      denoise: `Denoiser`.
      log_prob: function `(x_t, level) -> log p(y | x_t)` `[B]`, of the class that each image is to have.
      scale: number; may be traced.
    """

    def guided(x_t, level):
        prediction = denoise(x_t, level)
        slope = jax.grad(lambda x: jnp.sum(log_prob(x, level)))(x_t)
        sigma, signal = expand_like(level.sigma, x_t), expand_like(level.signal, x_t)
        return prediction._replace(
            x_0=prediction.x_0 + scale * sigma**2 / signal * slope, eps=prediction.eps - scale * sigma * slope
        )

    return guided


def label_log_prob(log_probs, label):
    """`log p(y | x_t)` for `classifier_guided` from a function to `[B, K]` and the classes y `[B]`."""
    return lambda x_t, level: jnp.take_along_axis(log_probs(x_t, level), label[:, None], axis=1)[:, 0]


def hide_labels(label: Array, keys: Array, *, rate: float, null: int) -> Array:
    """Replaces each label `[B]` by `null` with probability `rate`, so that one network learns both denoisers.

    Args:
      label: `[B]` integers.
      keys: `[B]` keys, one per image, which this consumes.
      rate: probability.
      null: the label of no class.
    """
    hidden = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(hidden, null, label)

"""What a network says about a noisy image, and the only code that converts between noise, data, velocity and score.

A network is trained to output eps, x_0 or the velocity v (`Target`); given x_t each determines the others. Everything
after it (samplers, losses, likelihood, guidance) sees a `Denoiser`: a function from a noisy image and its level to a
`Prediction` that always has both x_0 and eps. `as_denoiser` makes one from a network. Read next: `guidance.py`,
`samplers/`, `losses.py`.
"""

import enum
from typing import NamedTuple, Protocol

import chex
import jax.numpy as jnp
from jax import nn

from ddpm_jax.diffusion.arrays import Array, expand_like
from ddpm_jax.diffusion.schedules import NoiseLevel


class Prediction(NamedTuple):
    """An estimate of the clean image and the noise in x_t, tied by `x_t = signal x_0 + sigma eps`.

    Attributes:
      x_0: `[B, ...]` estimate of the clean image.
      eps: `[B, ...]` estimate of the noise.
      var_frac: `[B, ...]` in about [0, 1], where the reverse variance lies between its two extremes in log scale
        (Nichol & Dhariwal 2021, eq. 15), or None for a network without a variance head.
    """

    x_0: Array
    eps: Array
    var_frac: Array | None = None


class Denoiser(Protocol):
    """Any function from noisy images and their level to what is in them, such as `as_denoiser` makes of a network."""

    def __call__(self, x_t: Array, level: NoiseLevel) -> Prediction:
        """The `Prediction` of `[B, ...]` images; the leaves of the level are `[]` or `[B]`."""
        ...


class Target(enum.Enum):
    """What a network regresses: the noise, the clean image, or `v = signal eps - sigma x_0` (Salimans & Ho 2022)."""

    EPS = "eps"
    X_0 = "x_0"
    V = "v"

    def of(self, x_0, eps, level):
        """What the network should output for a known x_0 and eps, `[B, ...]`."""
        if self is Target.EPS:
            return eps
        if self is Target.X_0:
            return x_0
        return velocity(x_0, eps, level)

    def prediction(self, output, x_t, level):
        """The `Prediction` that a network's output `[B, ...]` means at x_t."""
        chex.assert_equal_shape([output, x_t])
        if self is Target.EPS:
            return Prediction(x_0_from_eps(output, x_t, level), output)
        if self is Target.X_0:
            return Prediction(output, eps_from_x_0(output, x_t, level))
        signal, sigma = expand_like(level.signal, x_t), expand_like(level.sigma, x_t)
        return Prediction(signal * x_t - sigma * output, sigma * x_t + signal * output)


def x_0_from_eps(eps, x_t, level):
    """`x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)` (Ho et al. 2020, eq. 4 solved for x_0)."""
    return (x_t - expand_like(level.sigma, x_t) * eps) / expand_like(level.signal, x_t)


def eps_from_x_0(x_0, x_t, level):
    """`eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)`, for t > 0."""
    return (x_t - expand_like(level.signal, x_t) * x_0) / expand_like(level.sigma, x_t)


def velocity(x_0, eps, level):
    """`v = signal eps - sigma x_0`, the derivative of x_t by `arctan(sigma / signal)` (Salimans & Ho 2022)."""
    return expand_like(level.signal, eps) * eps - expand_like(level.sigma, x_0) * x_0


def score(prediction, level):
    """`grad log q(x_t) = -eps / sqrt(1 - alpha_bar_t)`: the network is the score (Song et al. 2021), for t > 0."""
    return -prediction.eps / expand_like(level.sigma, prediction.eps)


def eps_from_score(score, level):
    """The noise estimate of a given score `[B, ...]`, the inverse of `score`."""
    return -expand_like(level.sigma, score) * score


def as_denoiser(apply, variables, target, *, label=None, learned_variance=False):
    """Closes a network over its parameters and labels, and hides what it was trained to output.

    The network is called as `apply(variables, x_t, index, label)` with the 0-based time index `t - 1` `[B]`, the
    convention of every published network; nothing outside this module knows of it.

    Args:
      apply: the network, e.g. `model.apply`, or a `functools.partial` of it with dropout keys.
      variables: its parameters, passed through.
      target: `Target` that the network was trained on.
      label: `[B]` integer classes, or None.
      learned_variance: the output has twice the image's channels, the second half being the variance in [-1, 1].
    """

    def denoise(x_t, level):
        output = apply(variables, x_t, _index(x_t, level), label)
        if not learned_variance:
            return target.prediction(output, x_t, level)
        output, raw_var = jnp.split(output, 2, axis=-1)
        return target.prediction(output, x_t, level)._replace(var_frac=(raw_var + 1) / 2)

    return denoise


def as_classifier(apply, variables):
    """Closes a network of noisy images over its parameters: a function `(x_t, level) -> log p(k | x_t)` `[B, K]`."""

    def log_probs(x_t, level):
        return nn.log_softmax(apply(variables, x_t, _index(x_t, level)))

    return log_probs


def _index(x_t, level):
    """The 0-based time index of every image, `[B]`."""
    return jnp.broadcast_to(jnp.asarray(level.t, jnp.float32) - 1, x_t.shape[:1])

"""What a network predicts of a noisy image, and the only conversions between noise, data, velocity and score.

A network is trained to output eps, x_0 or the velocity v (`Target`); given x_t each determines the others. All other
code (samplers, losses, likelihood, guidance) uses a `Denoiser`: a function from a noisy image and its level to a
`Prediction`, which always has both x_0 and eps. `as_denoiser` makes one from a network. Read next: `guidance.py`,
`samplers/`, `losses.py`.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import chex
import jax.numpy as jnp
from jax import nn

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real, expand_like
from ddpm_jax.diffusion.schedules import NoiseLevel


class Prediction(NamedTuple):
    """An estimate of the clean image and of the noise in x_t, which satisfy `x_t = signal x_0 + sigma eps`.

    Attributes:
      x_0: `[B, ...]` estimate of the clean image.
      eps: `[B, ...]` estimate of the noise.
      var_frac: `[B, ...]` in about [0, 1], the position of the reverse variance between its two extremes in log scale
        (Nichol & Dhariwal 2021, eq. 15), or None for a network without a variance head.
      mean_gradient: `[B, ...]` what the ancestral step adds to its mean, times its variance (`guidance.mean_guided`),
        or None. Every other sampler ignores it.
      x_0_mse: `[]` or `[B]` the mean squared error that x_0 is expected to have at this level, over images and pixels
        (`with_error`), or None. It is what the analytic variance of the ancestral step needs.
    """

    x_0: Array
    eps: Array
    var_frac: Array | None = None
    mean_gradient: Array | None = None
    x_0_mse: Array | None = None


class Denoiser(Protocol):
    """A function from noisy images and their level to a `Prediction`; `as_denoiser` makes one from a network."""

    def __call__(self, x_t: Array, level: NoiseLevel) -> Prediction:
        """The `Prediction` for images `[B, ...]`; the leaves of the level are `[]` or `[B]`."""
        ...


LogProb: TypeAlias = Callable[[Array, NoiseLevel], Array]
"""A function `(x_t, level) -> log p(k | x_t)`: `[B]` for one class k per image, `[B, K]` for all classes, `[S, B, K]`
at S samples of the weights."""


class Regression(Protocol):
    """What a network is given and what it regresses: a `Target`, an `EdmTarget`, or another with these functions."""

    def network_input(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """The image `[B, ...]` that the network is given for x_t."""
        ...

    def of(self, x_0: AnyArray, eps: AnyArray, level: NoiseLevel) -> AnyArray:
        """The output `[B, ...]` that the network should have for a known x_0 and eps, both `[B, ...]`."""
        ...

    def prediction(self, output: Array, x_t: AnyArray, level: NoiseLevel) -> Prediction:
        """The `Prediction` that corresponds to a network's output `[B, ...]` at x_t."""
        ...


class Target(enum.Enum):
    """What a network regresses.

    `EPS` is the noise, `X_0` the clean image, `V` is `signal eps - sigma x_0` (Salimans & Ho 2022), and `FLOW` is the
    velocity `eps - x_0` along the straight path `(1 - s) x_0 + s eps`, on which the network is given its image (Lipman
    et al. 2023). The point on that path is a multiple of x_t.
    """

    EPS = "eps"
    X_0 = "x_0"
    V = "v"
    FLOW = "flow"

    def network_input(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """The image `[B, ...]` that the network is given for x_t: itself, or the point on the straight path."""
        if self is Target.FLOW:
            return jnp.divide(x_t, expand_like(level.signal + level.sigma, x_t))
        return jnp.asarray(x_t)

    def of(self, x_0: AnyArray, eps: AnyArray, level: NoiseLevel) -> AnyArray:
        """The output `[B, ...]` that the network should have for a known x_0 and eps, both `[B, ...]`."""
        if self is Target.EPS:
            return eps
        if self is Target.X_0:
            return x_0
        return velocity(x_0, eps, level) if self is Target.V else eps - x_0

    def prediction(self, output: Array, x_t: AnyArray, level: NoiseLevel) -> Prediction:
        """The `Prediction` that corresponds to a network's output `[B, ...]` at x_t."""
        chex.assert_equal_shape([output, x_t])
        if self is Target.EPS:
            return Prediction(x_0_from_eps(output, x_t, level), output)
        if self is Target.X_0:
            return Prediction(output, eps_from_x_0(output, x_t, level))
        signal, sigma = expand_like(level.signal, x_t), expand_like(level.sigma, x_t)
        if self is Target.FLOW:
            point, share = self.network_input(x_t, level), sigma / (signal + sigma)
            return Prediction(point - share * output, point + (1 - share) * output)
        return Prediction(signal * x_t - sigma * output, sigma * x_t + signal * output)


class EdmTarget(NamedTuple):
    r"""EDM's preconditioning: both the input of the network and what it regresses have variance 1 at every level.

    $$ \hat x_0 = c_{\mathrm{skip}}\, \bar x + c_{\mathrm{out}}\, F(c_{\mathrm{in}}\, \bar x), \qquad
       c_{\mathrm{skip}} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
       c_{\mathrm{out}} = \frac{\sigma\, \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
       c_{\mathrm{in}} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}} $$

    [Karras et al. 2022](https://arxiv.org/abs/2206.00364), table 1, with `x_bar = x_t / signal` and `sigma / signal`
    for its sigma. Multiplied out with the scales of this package, nothing is infinite at either end.

    Attributes:
      sigma_data: the standard deviation of the data.
    """

    sigma_data: float = 0.5

    def network_input(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """`x_t / sqrt(sigma**2 + signal**2 sigma_data**2)`, `[B, ...]`."""
        return jnp.divide(x_t, expand_like(self._norm(level), x_t))

    def of(self, x_0: AnyArray, eps: AnyArray, level: NoiseLevel) -> AnyArray:
        """The output `[B, ...]` that the network should have: `(sigma x_0 - signal sigma_data**2 eps) / ...`."""
        signal, sigma, norm = (expand_like(a, x_0) for a in (level.signal, level.sigma, self._norm(level)))
        return (sigma * x_0 - signal * self.sigma_data**2 * eps) / (self.sigma_data * norm)

    def prediction(self, output: Array, x_t: AnyArray, level: NoiseLevel) -> Prediction:
        """The `Prediction` that corresponds to a network's output `[B, ...]` at x_t."""
        chex.assert_equal_shape([output, x_t])
        signal, sigma, norm = (expand_like(a, output) for a in (level.signal, level.sigma, self._norm(level)))
        skip, out = x_t / norm**2, self.sigma_data * output / norm
        return Prediction(signal * self.sigma_data**2 * skip + sigma * out, sigma * skip - signal * out)

    def _norm(self, level: NoiseLevel) -> Array:
        """`sqrt(sigma**2 + signal**2 sigma_data**2)`, `[]` or `[B]`: the standard deviation of x_t."""
        return jnp.sqrt(level.sigma**2 + (level.signal * self.sigma_data) ** 2)


def x_0_from_eps(eps: AnyArray, x_t: AnyArray, level: NoiseLevel) -> Array:
    """`x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)` (Ho et al. 2020, eq. 4 solved for x_0).

    Images are `[B, ...]`, the level is `[]` or `[B]`.
    """
    return jnp.subtract(x_t, expand_like(level.sigma, x_t) * eps) / expand_like(level.signal, x_t)


def eps_from_x_0(x_0: AnyArray, x_t: AnyArray, level: NoiseLevel) -> Array:
    """`eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)`, for t > 0.

    Images are `[B, ...]`, the level is `[]` or `[B]`.
    """
    return jnp.subtract(x_t, expand_like(level.signal, x_t) * x_0) / expand_like(level.sigma, x_t)


def velocity(x_0: AnyArray, eps: AnyArray, level: NoiseLevel) -> Array:
    """`v = signal eps - sigma x_0`, the derivative of x_t in the angle atan(sigma / signal) (Salimans & Ho 2022).

    Images are `[B, ...]`, the level is `[]` or `[B]`.
    """
    return expand_like(level.signal, eps) * eps - expand_like(level.sigma, x_0) * x_0


def score(prediction: Prediction, level: NoiseLevel) -> Array:
    """`grad log q(x_t) = -eps / sqrt(1 - alpha_bar_t)`, the score by the network (Song et al. 2021), for t > 0.

    Images are `[B, ...]`, the level is `[]` or `[B]`.
    """
    return -prediction.eps / expand_like(level.sigma, prediction.eps)


def eps_from_score(score: AnyArray, level: NoiseLevel) -> Array:
    """The noise estimate of a given score `[B, ...]`, the inverse of `score`."""
    return -expand_like(level.sigma, score) * score


def as_denoiser(
    apply: Callable[..., Any],
    variables: chex.ArrayTree,
    target: Regression | str,
    *,
    label: AnyArray | None = None,
    learned_variance: bool = False,
) -> Denoiser:
    """Makes a `Denoiser` from a network, its parameters and labels, whatever target it was trained on.

    The network is called as `apply(variables, x_t, index, label)` with the 0-based time index `t - 1` `[B]`, the
    convention of every published network; only this module uses it. Where the level says at which time a step ends, the
    network is called with the index of that time as `until=`.

    Args:
      apply: the network, which returns an array, e.g. `model.apply`, or a `functools.partial` of it with dropout keys.
      variables: its parameters, passed through.
      target: the `Target` that the network was trained on, or its value, such as "eps"; or an `EdmTarget`.
      label: `[B]` integer classes, or None.
      learned_variance: whether the output has twice the image's channels, of which the second half is the variance in
        [-1, 1].

    Raises:
      ValueError: `target` is not a `Target` or the value of one.
    """
    regressed = Target(target) if isinstance(target, str) else target

    def denoise(x_t: Array, level: NoiseLevel) -> Prediction:
        until = {} if level.until is None else {"until": _index(x_t, level.until)}
        output = apply(variables, regressed.network_input(x_t, level), _index(x_t, level.t), label, **until)
        if not learned_variance:
            return regressed.prediction(output, x_t, level)
        output, raw_var = jnp.split(output, 2, axis=-1)
        return regressed.prediction(output, x_t, level)._replace(var_frac=(raw_var + 1) / 2)

    return denoise


def edm_denoiser(network: Callable[[Array, Array], Array]) -> Denoiser:
    r"""Makes a `Denoiser` from a network `D(x, sigma)` in EDM's convention.

    $$ \hat x_0 = D\left( \frac{x_t}{\sqrt{\bar\alpha_t}},\ \sigma \right), \qquad
       \sigma = \frac{\sqrt{1 - \bar\alpha_t}}{\sqrt{\bar\alpha_t}} $$

    Such a network estimates x_0 from `x = x_0 + sigma eps`
    ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), eq. 2 and 7).

    Args:
      network: function of x `[B, ...]` and sigma `[B]` to the estimate of x_0 `[B, ...]`.
    """

    def denoise(x_t: Array, level: NoiseLevel) -> Prediction:
        sigma = jnp.broadcast_to(jnp.asarray(level.sigma / level.signal, x_t.dtype), x_t.shape[:1])
        x_0 = network(x_t / expand_like(level.signal, x_t), sigma)
        return Prediction(x_0, eps_from_x_0(x_0, x_t, level))

    return denoise


def with_error(denoise: Denoiser, mse: AnyArray) -> Denoiser:
    """The same `Denoiser`, whose predictions have the mean squared error of x_0 that was measured at their level.

    Args:
      denoise: `Denoiser`.
      mse: `[T]`, the error at times 1..T; between them its logarithm is interpolated.
    """

    def with_mse(x_t: Array, level: NoiseLevel) -> Prediction:
        times = jnp.arange(1, len(mse) + 1, dtype=x_t.dtype)
        at = jnp.interp(jnp.asarray(level.t, x_t.dtype), times, jnp.log(jnp.asarray(mse, x_t.dtype)))
        return denoise(x_t, level)._replace(x_0_mse=jnp.exp(at))

    return with_mse


def as_classifier(apply: Callable[..., Any], variables: chex.ArrayTree) -> LogProb:
    """Makes a function `(x_t, level) -> log p(k | x_t)` `[B, K]` from a classifier of noisy images."""

    def log_probs(x_t: Array, level: NoiseLevel) -> Array:
        return nn.log_softmax(apply(variables, x_t, _index(x_t, level.t)))

    return log_probs


def _index(x_t: AnyArray, t: Real) -> Array:
    """The 0-based index of a time `[]` or `[B]` for every image, `[B]`."""
    return jnp.broadcast_to(jnp.asarray(t, jnp.float32) - 1, x_t.shape[:1])

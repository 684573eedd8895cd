"""Analytic distributions, for which the optimal denoiser and every other diffusion quantity are known exactly.

Noise turns a Gaussian into a Gaussian. If the data are a Gaussian, a mixture of Gaussians or a finite set of images (a
mixture of points), the density of noisy images, its score and the optimal denoiser therefore have closed forms. All
three classes have the same methods: `sample` draws clean images, `log_prob` is the log density `log q(x_t)` of noisy
ones, and `denoiser` is a `Denoiser`, which can replace a network in any sampler, loss or bound. The tests compare the
project with these distributions; they also show what diffusion does without the errors of a network.

The optimal denoiser is the posterior mean: among all functions of x_t, `E[eps | x_t]` has the least squared error from
eps. Parameters are NumPy arrays on the host, in float64, like those of `NoiseSchedule`. Read next: `guidance.py`,
`samplers/`.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import AnyArray, Array, expand_like
from ddpm_jax.diffusion.prediction import Prediction, eps_from_x_0
from ddpm_jax.diffusion.schedules import NoiseLevel

CLEAN = NoiseLevel(t=0.0, signal=1.0, sigma=0.0)
"""The level of clean images."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Normal images, `x_0 ~ N(m, C)`, whose noisy versions are `x_t ~ N(signal m, signal**2 C + sigma**2 I)`.

    Along an eigenvector of C with eigenvalue c, the variance of x_t is `var = signal**2 c + sigma**2`.

    Attributes:
      mean: m, the shape of one image, `[...]` with D entries.
      covariance: C `[D, D]` of the flattened image, symmetric, positive semidefinite; 0 puts all data at one point.

    Raises:
      ValueError: the shapes do not fit, or C is not a covariance.
    """

    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        mean, covariance = _float64(self, "mean", "covariance")
        if covariance.shape != (mean.size, mean.size):
            raise ValueError(f"covariance must be [{mean.size}, {mean.size}], got {list(covariance.shape)}")
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance)[0] < -1e-9:
            raise ValueError("covariance must be symmetric and have no negative eigenvalue")

    def sample(self, key: Array, n: int) -> Array:
        """Draws clean images `[n, ...]`."""
        eigenvalues, basis = self._spectrum()
        z = jax.random.normal(key, (n, self.mean.size)) * np.sqrt(eigenvalues)
        return (z @ basis.T + self.mean.ravel()).reshape(n, *self.mean.shape)

    def log_prob(self, x_t: AnyArray, level: NoiseLevel = CLEAN) -> Array:
        """`log q(x_t)` `[B]`, in nats, of images at a noise level; the default is the level of clean images."""
        z, var = self._coordinates(x_t, level)
        return -0.5 * jnp.sum(z**2 / var + jnp.log(2 * jnp.pi * var), axis=-1)

    def denoiser(self, x_t: AnyArray, level: NoiseLevel) -> Prediction:
        """`E[x_0 | x_t] = m + signal C z / var`, `E[eps | x_t] = sigma z / var`; `z = x_t - signal m`."""
        eigenvalues, basis = self._spectrum()
        z, var = self._coordinates(x_t, level)
        x_0 = (expand_like(level.signal, z) * eigenvalues / var * z) @ basis.T + self.mean.ravel()
        eps = (expand_like(level.sigma, z) / var * z) @ basis.T
        return Prediction(x_0.reshape(x_t.shape), eps.reshape(x_t.shape))

    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues `[D]` of the covariance, and its eigenvectors in the columns of a matrix `[D, D]`."""
        eigenvalues, basis = np.linalg.eigh(self.covariance)
        return np.maximum(eigenvalues, 0), basis

    def _coordinates(self, x_t: AnyArray, level: NoiseLevel) -> tuple[Array, Array]:
        """The components of `x_t - signal m` along the eigenvectors, and their variances, both `[B, D]`."""
        eigenvalues, basis = self._spectrum()
        x = jnp.reshape(x_t, (len(x_t), -1))
        signal, sigma = expand_like(level.signal, x), expand_like(level.sigma, x)
        z = (x - signal * self.mean.ravel()) @ basis
        return z, jnp.broadcast_to(signal**2 * eigenvalues + sigma**2, z.shape)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Images of K classes: class k has probability `weights[k]` and images `N(means[k], covariances[k])`.

    Attributes:
      weights: `[K]`, positive, with sum 1.
      means: `[K, ...]`.
      covariances: `[K, D, D]`.
      components: the K classes, each a `Gaussian`.

    Raises:
      ValueError: the weights are not probabilities, or the parts do not fit together.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    components: tuple[Gaussian, ...] = field(init=False)

    def __post_init__(self) -> None:
        weights, means, covariances = _float64(self, "weights", "means", "covariances")
        if weights.ndim != 1 or np.any(weights <= 0) or not np.isclose(weights.sum(), 1):
            raise ValueError(f"weights must be positive and sum to 1, got {weights}")
        if not len(weights) == len(means) == len(covariances):
            counts = f"{len(weights)}, {len(means)} and {len(covariances)}"
            raise ValueError(f"there must be one weight, mean and covariance per class, got {counts}")
        object.__setattr__(self, "components", tuple(map(Gaussian, means, covariances)))

    @property
    def mean(self) -> np.ndarray:
        """Mean of the whole mixture `[...]`, of the shape of one image."""
        return np.tensordot(self.weights, self.means, 1)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the whole mixture `[D, D]`: the one within the classes plus the one of their means."""
        offsets = (self.means - self.mean).reshape(len(self.weights), -1)
        between = np.einsum("k,ki,kj->ij", self.weights, offsets, offsets)
        return np.tensordot(self.weights, self.covariances, 1) + between

    def sample(self, key: Array, n: int) -> Array:
        """Draws clean images `[n, ...]`."""
        label_key, *keys = jax.random.split(key, 1 + len(self.weights))
        label = jax.random.choice(label_key, len(self.weights), (n,), p=jnp.asarray(self.weights))
        images = jnp.stack([g.sample(k, n) for g, k in zip(self.components, keys, strict=True)])
        return images[label, jnp.arange(n)]

    def log_prob(self, x_t: AnyArray, level: NoiseLevel = CLEAN) -> Array:
        """`log q(x_t) = log sum_k weights[k] q(x_t | k)` `[B]`, in nats; by default of clean images."""
        return jax.nn.logsumexp(self._log_joint(x_t, level), axis=-1)

    def log_prob_label(self, x_t: AnyArray, level: NoiseLevel = CLEAN) -> Array:
        """`log p(k | x_t)` `[B, K]`: the exact classifier of noisy images, by Bayes' rule."""
        return jax.nn.log_softmax(self._log_joint(x_t, level), axis=-1)

    def denoiser(self, x_t: AnyArray, level: NoiseLevel) -> Prediction:
        """`E[x_0 | x_t] = sum_k p(k | x_t) E[x_0 | x_t, k]`, likewise eps; for one class k use `components[k]`."""
        prob = jnp.exp(self.log_prob_label(x_t, level))
        parts = [g.denoiser(x_t, level) for g in self.components]
        return Prediction(
            x_0=jnp.asarray(sum(expand_like(prob[:, k], x_t) * part.x_0 for k, part in enumerate(parts))),
            eps=jnp.asarray(sum(expand_like(prob[:, k], x_t) * part.eps for k, part in enumerate(parts))),
        )

    def _log_joint(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """`log p(k) q(x_t | k)` `[B, K]`."""
        return jnp.stack([g.log_prob(x_t, level) for g in self.components], axis=-1) + np.log(self.weights)


@dataclass(frozen=True, eq=False)
class FiniteData:
    """Images drawn uniformly from a finite set: the empirical distribution of a training set.

    Its denoiser is the one that a network of unlimited capacity would learn: it averages the training images,
    weighted by their posterior probability given x_t, so that a chain ends at one of them.

    Attributes:
      points: `[N, ...]`, the N images.
    """

    points: np.ndarray

    def __post_init__(self) -> None:
        _float64(self, "points")

    def sample(self, key: Array, n: int) -> Array:
        """Draws clean images `[n, ...]`, drawn with replacement."""
        return jnp.asarray(self.points)[jax.random.randint(key, (n,), 0, len(self.points))]

    def log_prob(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """`log q(x_t) = log mean_i N(x_t; signal points[i], sigma**2 I)` `[B]`, in nats, for t > 0."""
        sigma = jnp.asarray(level.sigma)
        dim = self.points[0].size
        log_mean = jax.nn.logsumexp(self._log_fit(x_t, level), axis=-1) - np.log(len(self.points))
        return log_mean - dim * (jnp.log(sigma) + 0.5 * np.log(2 * np.pi))

    def log_prob_point(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """`log q(points[i] | x_t)` `[B, N]`, the posterior probability of every image, by Bayes' rule, for t > 0."""
        return jax.nn.log_softmax(self._log_fit(x_t, level), axis=-1)

    def denoiser(self, x_t: AnyArray, level: NoiseLevel) -> Prediction:
        """`E[x_0 | x_t] = sum_i w_i points[i]` and the corresponding eps, for t > 0.

        `w = softmax_i(-norm(x_t - signal points[i])**2 / (2 sigma**2))` is the posterior probability of points[i].
        """
        x_0 = jnp.tensordot(jax.nn.softmax(self._log_fit(x_t, level)), self.points, 1)
        return Prediction(x_0, eps_from_x_0(x_0, x_t, level))

    def _log_fit(self, x_t: AnyArray, level: NoiseLevel) -> Array:
        """`-norm(x_t - signal points[i])**2 / (2 sigma**2)` `[B, N]`; an expanded square would lose digits."""
        x = x_t[:, None]
        z = (x - expand_like(level.signal, x) * self.points) / expand_like(level.sigma, x)
        return -0.5 * jnp.sum(z**2, axis=range(2, x.ndim))


def _float64(self: "Gaussian | GaussianMixture | FiniteData", *names: str) -> list[np.ndarray]:
    """Converts the named fields of a frozen dataclass to float64 arrays, and returns them."""
    for name in names:
        object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
    return [getattr(self, name) for name in names]

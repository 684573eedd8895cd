"""A mixture of two Gaussians on a line, and the classifier of its noisy points by quadrature over the clean ones."""

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ddpm_jax.diffusion.analytic import GaussianMixture
from ddpm_jax.diffusion.schedules import NoiseLevel

LINE = GaussianMixture(weights=[0.3, 0.7], means=[[-0.8], [0.6]], covariances=[[[0.05]], [[0.12]]])
ON_LINE = np.linspace(-2.5, 2.5, 23)  # noisy points
X_0 = np.linspace(-5, 5, 4001)


def log_class_of_noisy(x_t, level: NoiseLevel, density: GaussianMixture = LINE):
    """`log p(y = 0 | x_t)` `[B]` at points x_t `[B]`: Bayes' rule is used for clean points alone."""
    means, variances = np.asarray(density.means)[:, 0], np.asarray(density.covariances)[:, 0, 0]
    joint = np.asarray(density.weights)[:, None] * norm.pdf(X_0, means[:, None], np.sqrt(variances)[:, None])
    kernel = norm.pdf(jnp.reshape(x_t, (-1, 1)), level.signal * X_0, level.sigma)
    return jnp.log(kernel @ joint[0]) - jnp.log(kernel @ joint.sum(axis=0))

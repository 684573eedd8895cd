"""Bayesian linear regression of two weights, by numpy and scipy alone: what the lines of rows 18 and 19 are held to."""

import numpy as np
from scipy.stats import multivariate_normal, norm

from ddpm_jax.diffusion.bayes import MeanField
from support.analytic import normal

NOISE, PRIOR = 0.4, 0.7  # standard deviations
X = np.linalg.qr(normal(9, 2))[0] * [1.3, 0.6]  # orthogonal columns, so that the exact posterior is a mean field
Y = X @ [0.8, -0.5] + NOISE * normal(9, seed=1)
PRECISION = X.T @ X / NOISE**2 + np.eye(2) / PRIOR**2
MEAN, STD = np.linalg.solve(PRECISION, X.T @ Y / NOISE**2), 1 / np.sqrt(np.diag(PRECISION))
LOG_EVIDENCE = multivariate_normal(cov=NOISE**2 * np.eye(9) + PRIOR**2 * X @ X.T).logpdf(Y)
Q = MeanField(np.array([0.3, 0.4]), np.log([0.5, 0.2]))  # any q(w)


def log_likelihood(w):
    """`log P(D | w)` of weights `[..., 2]`."""
    return norm.logpdf(Y, np.asarray(w) @ X.T, NOISE).sum(axis=-1)


def log_prior(w):
    """`log P(w)` of weights `[..., 2]`."""
    return norm.logpdf(w, 0, PRIOR).sum(axis=-1)


def log_q(w, q=Q):
    """`log q(w)` of weights `[..., 2]`."""
    return norm.logpdf(w, q.mean, np.exp(q.log_std)).sum(axis=-1)


def average(function, mean=Q.mean, std=None):
    """`E_q[function(w)]` over independent Gaussian weights, by Gauss and Hermite's rule with 40 x 40 points."""
    std = np.exp(Q.log_std) if std is None else std
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    eps = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    return np.outer(weights, weights).ravel() / (2 * np.pi) @ function(mean + std * eps)


def integral(function, *, extent=8.0, num=161):
    """The integral of a function of weights `[N, 2]` over the plane around the exact posterior."""
    line = np.linspace(-extent, extent, num)
    w = MEAN + STD * np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return function(w).sum() * np.prod(STD) * (line[1] - line[0]) ** 2

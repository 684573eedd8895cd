"""The Gaussians of the forward process: the closed form q(x_t | x_0) and the posterior q(x_s | x_t, x_0).

Because every noising step is Gaussian, any number of them is one Gaussian (`q_sample`), and so is one step backwards
once the clean image is known (`q_posterior`, by Bayes). Training needs the first, sampling the second with the
network's guess in place of x_0. Read next: `prediction.py`.
"""

import jax.numpy as jnp

from ddpm_jax.arrays import expand_like


def q_sample(x_0, eps, level):
    """`x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`: a draw from q(x_t | x_0) (Ho et al. 2020, eq. 4).

    Args:
      x_0, eps: `[B, ...]`, clean image in [-1, 1] and standard normal noise.
      level: `NoiseLevel` with leaves `[]` or `[B]`.
    """
    return expand_like(level.signal, x_0) * x_0 + expand_like(level.sigma, x_0) * eps


def q_step(x_s, eps, transition):
    """`x_t = sqrt(1 - beta) x_s + sqrt(beta) eps`: a draw from q(x_t | x_s) (Ho et al. 2020, eq. 2).

    Over neighbouring times this is one noising step; over any s < t it is all the steps between them at once.
    """
    beta = expand_like(transition.beta, x_s)
    return jnp.sqrt(1 - beta) * x_s + jnp.sqrt(beta) * eps


def q_posterior(x_0, x_t, transition):
    """Mean and log variance of q(x_s | x_t, x_0) for any s < t (Ho et al. 2020, eq. 6 and 7).

    `mu_tilde = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x_0 + sqrt(1 - beta) (1 - alpha_bar_s) / (1 - alpha_bar_t)
    x_t` and `beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) beta`.

    Args:
      x_0, x_t: `[B, ...]`.
      transition: the move t -> s, leaves `[]` or `[B]`.

    Returns:
      mean `[B, ...]` and log variance, broadcastable against it.
    """
    now, next = transition.now, transition.next
    var_now = now.sigma**2
    mean = (
        expand_like(next.signal * transition.beta / var_now, x_0) * x_0
        + expand_like(now.signal / next.signal * next.sigma**2 / var_now, x_t) * x_t
    )
    return mean, expand_like(transition.log_var_small, x_t)

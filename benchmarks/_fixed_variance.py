"""The bound for a fixed variance, as a loss."""

from dataclasses import dataclass

import jax

import ddpm_jax as dj
from ddpm_jax.diffusion.likelihood import bits_per_dim, bound_term


@dataclass(frozen=True)
class FixedVarianceBound:
    """The bound for the fixed variance beta, as T times its term at a random time, in bits per dimension."""

    num_timesteps: int

    def __call__(
        self, denoise: dj.Denoiser, x_0: jax.Array, keys: jax.Array, transition: dj.Transition
    ) -> dict[str, jax.Array]:
        """The terms "loss" and "eps_mse" of every image, `[B]`."""
        term = bound_term(denoise, x_0, keys, transition=transition, variance=dj.Variance.LARGE)
        bits = self.num_timesteps * bits_per_dim(term["nats"], x_0.shape[1:])
        return {"loss": bits, "eps_mse": term["eps_mse"]}

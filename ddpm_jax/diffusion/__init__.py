"""The mathematics of diffusion: pure functions of arrays, which need only JAX, NumPy and chex."""

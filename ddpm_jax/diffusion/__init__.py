"""The mathematics: pure functions of arrays, which need JAX and NumPy alone."""

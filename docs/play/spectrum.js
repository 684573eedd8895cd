/* Power spectra of images, as ddpm_jax/diffusion/spectrum.py: the mean of a^2 + b^2 over each ring of frequencies. */
define("spectrum", [], () => {
  /** The signed frequency of each coefficient of a transform of n values: 0, 1, ..., -2, -1. */
  const frequencies = (n) => Array.from({ length: n }, (_, k) => (k < n / 2 ? k : k - n));

  /** A function from an image `[side^2]` to its band power `[side / 2 + 1]`; white noise of variance 1 has power 1. */
  function band_power_of(side) {
    const all = frequencies(side),
      bands = [];
    for (let u = 0; u < side; u++)
      for (let v = 0; v < side; v++) {
        const band = Math.round(Math.hypot(all[u], all[v]));
        if (band > side / 2) continue;
        const phase = (i) => (2 * Math.PI * (u * Math.floor(i / side) + v * (i % side))) / side;
        const wave = (f) => Float64Array.from({ length: side * side }, (_, i) => f(phase(i)) / side);
        (bands[band] ??= []).push([wave(Math.cos), wave(Math.sin)]);
      }
    const product = (wave, x) => wave.reduce((sum, value, i) => sum + value * x[i], 0);
    const power = ([a, b], x) => product(a, x) ** 2 + product(b, x) ** 2;
    return (x) => bands.map((waves) => waves.reduce((sum, wave) => sum + power(wave, x), 0) / waves.length);
  }

  /** Expected band power of x_t: `alpha_bar_t power_0 + (1 - alpha_bar_t)`. */
  const forward_power = (power_0, level) => power_0.map((power) => level.signal ** 2 * power + level.sigma ** 2);

  return { band_power_of, forward_power };
});

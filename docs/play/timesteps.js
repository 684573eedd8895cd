/* Time grids, as ddpm_jax/diffusion/timesteps.py: N + 1 decreasing times, from T to 0. */
define("timesteps", ["arrays"], ({ linspace }) => {
  /** Rounds to the nearest integer, and halves to the even one, as NumPy does. */
  function round(x) {
    const below = Math.floor(x),
      part = x - below;
    if (part !== 0.5) return Math.round(x);
    return below % 2 === 0 ? below : below + 1;
  }

  const ended = (times) => Float64Array.from([...times, 0]);

  /** Even strides that end at 0 (Lin et al. 2024, section 3.3). */
  const trailing = (schedule, n) => linspace(schedule.num_timesteps, 0, n + 1).map(round);

  /** Evenly spaced integers from T to 1, then 0: sums of the stride, rounded (Nichol & Dhariwal 2021, section 4). */
  function uniform(schedule, n) {
    const T = schedule.num_timesteps,
      indices = [0];
    while (indices.length < n) indices.push(indices[indices.length - 1] + (T - 1) / (n - 1));
    return ended(n === 1 ? [T] : indices.map((index) => 1 + round(index)).reverse());
  }

  /** Evenly spaced square roots, then 0 (Song et al. 2020, appendix D.2). */
  function quadratic(schedule, n) {
    const T = schedule.num_timesteps;
    return ended(linspace(T ** 0.5, 1, n).map((root) => Math.min(root ** 2, T)));
  }

  /** Evenly spaced log-SNR, then 0 (Lu et al. 2022). */
  function log_snr(schedule, n) {
    const all = schedule.log_snr;
    return ended(linspace(all[all.length - 1], all[0], n).map((value) => schedule.time(value)));
  }

  /** Evenly spaced (sigma / signal)^(1 / 7), then 0 (Karras et al. 2022, eq. 5). */
  function karras(schedule, n) {
    const all = schedule.log_snr,
      root = (value) => Math.exp(-value / 2) ** (1 / 7);
    const roots = linspace(root(all[all.length - 1]), root(all[0]), n);
    return ended(roots.map((value) => schedule.time(-2 * Math.log(value ** 7))));
  }

  return { GRIDS: { trailing, uniform, quadratic, log_snr, karras } };
});

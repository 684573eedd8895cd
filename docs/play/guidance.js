/* Guidance and clipping, functions from denoisers to a denoiser, as ddpm_jax/diffusion/guidance.py. */
define("guidance", [], () => {
  /** `scale eps(x_t, y) + (1 - scale) eps(x_t)`, likewise x_0 (Ho & Salimans 2022, eq. 6; scale = 1 + w). */
  function classifier_free(conditional, unconditional, scale) {
    return (x, level) => {
      const a = conditional(x, level),
        b = unconditional(x, level);
      const mixed = (name) => a[name].map((value, i) => scale * value + (1 - scale) * b[name][i]);
      return { x_0: mixed("x_0"), eps: mixed("eps") };
    };
  }

  /** Clips the estimate of x_0 to the range of images, and computes eps from it. */
  function clip_x_0(denoise) {
    return (x, level) => {
      const x_0 = denoise(x, level).x_0.map((value) => Math.min(1, Math.max(-1, value)));
      return { x_0, eps: x_0.map((value, i) => (x[i] - level.signal * value) / level.sigma) };
    };
  }

  return { classifier_free, clip_x_0 };
});

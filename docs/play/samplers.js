/* Samplers, as ddpm_jax/diffusion/samplers/: functions (denoise, z, state, transition) -> {state, x_0, evaluations}.

   A state is {x, memory}; z is the noise of the step `[B * D]`; x_0 is the estimate from which the step starts. */
define("samplers", [], () => {
  /** `x_s = mean + sqrt(variance) z`, those of q(x_s | x_t, x_0) at the estimate (Ho et al. 2020, algorithm 2). */
  function ancestral(is_large) {
    return (denoise, z, { x }, { now, next, beta, log_var_small, log_var_large }) => {
      const { x_0 } = denoise(x, now),
        var_now = now.sigma ** 2;
      const a = (next.signal * beta) / var_now,
        b = ((now.signal / next.signal) * next.sigma ** 2) / var_now;
      const std = next.t > 0 ? Math.exp(0.5 * (is_large ? log_var_large : log_var_small)) : 0;
      return { state: { x: x.map((value, i) => a * x_0[i] + b * value + std * z[i]) }, x_0, evaluations: 1 };
    };
  }

  /** `x_s = signal_s x_0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z`, v = eta^2 beta_tilde (Song et al. 2020, eq. 12). */
  function ddim(eta) {
    return (denoise, z, { x }, { now, next, beta }) => {
      const { x_0, eps } = denoise(x, now),
        variance = eta ** 2 * (next.sigma / now.sigma) ** 2 * beta;
      const direction = Math.sqrt(Math.max(next.sigma ** 2 - variance, 0)),
        std = Math.sqrt(variance);
      return {
        state: { x: x.map((_, i) => next.signal * x_0[i] + direction * eps[i] + std * z[i]) },
        x_0,
        evaluations: 1,
      };
    };
  }

  /** Heun's method for `d x_bar / ds = eps`, x_bar = x / signal, s = sigma / signal (Karras et al. 2022, alg. 1). */
  function heun() {
    return (denoise, z, { x }, { now, next }) => {
      const { x_0, eps } = denoise(x, now),
        h = next.sigma / next.signal - now.sigma / now.signal;
      const euler = x.map((value, i) => value / now.signal + h * eps[i]);
      if (next.t === 0) return { state: { x: euler.map((value) => next.signal * value) }, x_0, evaluations: 1 };
      const second = denoise(
        euler.map((value) => next.signal * value),
        next,
      ).eps;
      const corrected = x.map((value, i) => next.signal * (value / now.signal + (h * (eps[i] + second[i])) / 2));
      return { state: { x: corrected }, x_0, evaluations: 2 };
    };
  }

  /** DPM-Solver++(2M): x_0 is extrapolated from the last two estimates in half log-SNR (Lu et al. 2022, alg. 2). */
  function dpm_solver_pp_2m() {
    return (denoise, z, { x, memory }, { now, next }) => {
      const { x_0 } = denoise(x, now),
        h = (next.log_snr - now.log_snr) / 2;
      const weight = memory && next.t > 0 ? h / (2 * memory.step) : 0;
      const rest = next.sigma / now.sigma,
        gain = -next.signal * Math.expm1(-h);
      const along = (i) => x_0[i] + (weight ? weight * (x_0[i] - memory.x_0[i]) : 0);
      return {
        state: { x: x.map((value, i) => rest * value + gain * along(i)), memory: { x_0, step: h } },
        x_0,
        evaluations: 1,
      };
    };
  }

  /** The samplers of the page by their names, each made from eta. */
  const SAMPLERS = { ancestral: () => ancestral(false), ddim, heun, dpm_solver_pp_2m };

  /** Every x of a chain from x_T on, `[N + 1]` arrays; z(n) is the noise of step n. */
  function sample(step, denoise, x_T, transitions, z) {
    let state = { x: x_T };
    return [x_T, ...transitions.map((transition, n) => (state = step(denoise, z(n), state, transition).state).x)];
  }

  return { SAMPLERS, ancestral, ddim, heun, dpm_solver_pp_2m, sample };
});

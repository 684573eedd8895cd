/* Noise schedules, as ddpm_jax/diffusion/schedules.py: alpha_bar_t = prod_{s <= t} (1 - beta_s), alpha_bar_0 = 1.

   A noise level is {t, signal, sigma, log_snr}: x_t = signal x_0 + sigma eps. A transition goes from t to an
   earlier s. */
define("schedules", ["arrays"], ({ linspace, interp }) => {
  const sigmoid_of = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

  class NoiseSchedule {
    /** @param alpha_bar `[T + 1]`, decreasing from alpha_bar[0] = 1. */
    constructor(alpha_bar) {
      this.alpha_bar = alpha_bar;
      this.num_timesteps = alpha_bar.length - 1;
      this.log_snr = Float64Array.from(alpha_bar.slice(1), (a) => Math.log(a) - Math.log1p(-a));
      this.times = linspace(1, this.num_timesteps, this.num_timesteps);
      this.rising = this.log_snr.map((value) => -value);
    }

    /** The noise level at time t, 0 or in [1, T]; between integers it is interpolated linearly in log-SNR. */
    level(t) {
      const log_snr = t === 0 ? Infinity : interp(t, this.times, this.log_snr);
      return { t, signal: Math.sqrt(sigmoid_of(log_snr)), sigma: Math.sqrt(sigmoid_of(-log_snr)), log_snr };
    }

    /** The time at which the log-SNR has a value: the inverse of `level(t).log_snr`. */
    time(log_snr) {
      return interp(-log_snr, this.rising, this.times);
    }

    /** The transitions along decreasing times `[N + 1]`. */
    transitions(timesteps) {
      const chain = [];
      for (let i = 0; i + 1 < timesteps.length; i++) {
        const now = this.level(timesteps[i]),
          next = this.level(timesteps[i + 1]);
        const beta = 1 - (now.signal / next.signal) ** 2,
          log_var_large = Math.log(beta);
        const log_var_small = 2 * (Math.log(next.sigma) - Math.log(now.sigma)) + log_var_large;
        chain.push({ now, next, beta, log_var_small, log_var_large });
      }
      const last = chain[chain.length - 1];
      if (last.next.t === 0)
        last.log_var_small = chain.length > 1 ? chain[chain.length - 2].log_var_small : last.log_var_large;
      return chain;
    }
  }

  function from_betas(betas) {
    const alpha_bar = new Float64Array(betas.length + 1);
    alpha_bar[0] = 1;
    betas.forEach((beta, i) => (alpha_bar[i + 1] = alpha_bar[i] * (1 - beta)));
    return new NoiseSchedule(alpha_bar);
  }

  const START = 1e-4,
    END = 0.02;
  /** Ho et al. 2020, section 4: the betas grow linearly. */
  const linear = (T) => from_betas(linspace(START, END, T));
  /** The square roots of the betas grow linearly (Ho et al.'s code). */
  const quadratic = (T) => from_betas(linspace(START ** 0.5, END ** 0.5, T).map((root) => root ** 2));
  /** The betas grow as the logistic function over [-6, 6] (Song et al. 2020's code). */
  const sigmoid = (T) => from_betas(linspace(-6, 6, T).map((x) => sigmoid_of(x) * (END - START) + START));
  /** Nichol & Dhariwal 2021, eq. 17: alpha_bar falls as a squared cosine. */
  function cosine(T) {
    const at = (t) => Math.cos((((t / T + 0.008) / 1.008) * Math.PI) / 2) ** 2;
    return from_betas(Float64Array.from({ length: T }, (_, i) => Math.min(1 - at(i + 1) / at(i), 0.999)));
  }

  return { NoiseSchedule, from_betas, SCHEDULES: { linear, quadratic, sigmoid, cosine } };
});

/* Distributions whose optimal denoiser is known exactly, as ddpm_jax/diffusion/analytic.py.

   A denoiser is a function (x_t, level) -> {x_0, eps} of flat arrays `[B * D]`; it returns the posterior averages. */
define("analytic", ["arrays"], ({ logsumexp }) => {
  const LOG_2PI = Math.log(2 * Math.PI);

  /** K round Gaussians in D dimensions: class k has weights[k], the mean means[k] and the covariance variances[k] I. */
  class GaussianMixture {
    constructor(weights, means, variances) {
      Object.assign(this, { weights, means, variances, num: weights.length, dim: means.length / weights.length });
    }

    /** The classes whose numbers are given, as a mixture of their own. */
    only(chosen) {
      const total = chosen.reduce((sum, k) => sum + this.weights[k], 0);
      const means = chosen.flatMap((k) => Array.from(this.means.slice(k * this.dim, (k + 1) * this.dim)));
      const parts = [chosen.map((k) => this.weights[k] / total), means, chosen.map((k) => this.variances[k])];
      return new GaussianMixture(...parts.map((part) => Float64Array.from(part)));
    }

    /** Mean `[2]` and covariance `[a, b, c]` of the whole mixture in the plane, for the Frechet distance. */
    moments() {
      const mean = [0, 0],
        cov = [0, 0, 0];
      const each = (f) => this.weights.forEach((weight, k) => f(weight, this.means[2 * k], this.means[2 * k + 1], k));
      each((weight, x, y) => ((mean[0] += weight * x), (mean[1] += weight * y)));
      each((weight, x, y, k) => {
        const u = x - mean[0],
          v = y - mean[1];
        cov[0] += weight * (this.variances[k] + u * u);
        cov[1] += weight * u * v;
        cov[2] += weight * (this.variances[k] + v * v);
      });
      return { mean, cov };
    }

    /** Of each class at a level: the variance of its noisy points, and the logarithm of its weight over its volume. */
    prepared(level) {
      const variance = this.variances.map((v) => level.signal ** 2 * v + level.sigma ** 2);
      return {
        variance,
        constant: variance.map((v, k) => Math.log(this.weights[k]) - 0.5 * this.dim * (LOG_2PI + Math.log(v))),
      };
    }

    /** `log p(k) q(x_t | k)` `[K]` of the point at `start`; q(x_t | k) = N(signal m_k, (signal^2 v_k + sigma^2) I). */
    log_joint(x, start, { signal }, { variance, constant }, out) {
      for (let k = 0, at = 0; k < this.num; k++) {
        let square = 0;
        for (let j = 0; j < this.dim; j++, at++) square += (x[start + j] - signal * this.means[at]) ** 2;
        out[k] = constant[k] - (0.5 * square) / variance[k];
      }
      return out;
    }

    /** `log q(x_t)` `[B]`, in nats. */
    log_prob(x, level) {
      const joint = new Float64Array(this.num),
        prepared = this.prepared(level);
      return Float64Array.from({ length: x.length / this.dim }, (_, i) =>
        logsumexp(this.log_joint(x, i * this.dim, level, prepared, joint)),
      );
    }

    /** `log p(k | x_t)` `[K]` of one point, by Bayes' rule. */
    log_posterior(x, level) {
      const joint = this.log_joint(x, 0, level, this.prepared(level), new Float64Array(this.num)),
        total = logsumexp(joint);
      return joint.map((value) => value - total);
    }

    /** `E[x_0 | x_t] = sum_k p(k | x_t) (m_k + signal v_k / var_k z_k)`, z_k = x_t - signal m_k, and eps likewise. */
    denoiser(x, level) {
      const x_0 = new Float64Array(x.length),
        eps = new Float64Array(x.length),
        joint = new Float64Array(this.num);
      const prepared = this.prepared(level);
      for (let start = 0; start < x.length; start += this.dim) {
        const total = logsumexp(this.log_joint(x, start, level, prepared, joint));
        for (let k = 0; k < this.num; k++) {
          const probability = Math.exp(joint[k] - total);
          if (probability === 0) continue;
          for (let j = 0; j < this.dim; j++) {
            const mean = this.means[k * this.dim + j],
              z = (x[start + j] - level.signal * mean) / prepared.variance[k];
            x_0[start + j] += probability * (mean + level.signal * this.variances[k] * z);
            eps[start + j] += probability * level.sigma * z;
          }
        }
      }
      return { x_0, eps };
    }
  }

  /** Images drawn uniformly from a finite set, points `[N * D]`. */
  class FiniteData {
    constructor(points, dim) {
      Object.assign(this, { points, dim, num: points.length / dim });
    }

    /** The images whose numbers are given, as a set of their own. */
    only(chosen) {
      const points = new Float64Array(chosen.length * this.dim);
      chosen.forEach((i, place) =>
        points.set(this.points.subarray(i * this.dim, (i + 1) * this.dim), place * this.dim),
      );
      return new FiniteData(points, this.dim);
    }

    /** `-norm(x_t - signal points[i])^2 / (2 sigma^2)` `[N]` of one image, which begins at `start`. */
    log_fit(x, level, start, out) {
      const { points, dim } = this,
        scale = -0.5 / level.sigma ** 2;
      for (let i = 0, at = 0; i < this.num; i++) {
        let square = 0;
        for (let j = 0; j < dim; j++, at++) {
          const z = x[start + j] - level.signal * points[at];
          square += z * z;
        }
        out[i] = scale * square;
      }
      return out;
    }

    /** `log q(points[i] | x_t)` `[N]` of one image, by Bayes' rule, for t > 0. */
    log_posterior(x, level) {
      const fit = this.log_fit(x, level, 0, new Float64Array(this.num)),
        total = logsumexp(fit);
      return fit.map((value) => value - total);
    }

    /** `E[x_0 | x_t] = sum_i q(points[i] | x_t) points[i]`, and the eps that belongs to it, for t > 0. */
    denoiser(x, level) {
      const { points, dim } = this,
        x_0 = new Float64Array(x.length),
        fit = new Float64Array(this.num);
      for (let start = 0; start < x.length; start += dim) {
        const total = logsumexp(this.log_fit(x, level, start, fit));
        for (let i = 0; i < this.num; i++) {
          const weight = Math.exp(fit[i] - total);
          if (weight < 1e-12) continue; // all of these together change no digit that counts
          for (let j = 0, at = i * dim; j < dim; j++, at++) x_0[start + j] += weight * points[at];
        }
      }
      return { x_0, eps: x.map((value, j) => (value - level.signal * x_0[j]) / level.sigma) };
    }
  }

  return { GaussianMixture, FiniteData };
});

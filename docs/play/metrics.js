/* Quality measures of points in the plane, as ddpm_jax/metrics/frechet.py and precision_recall.py. */
define("metrics", [], () => {
  /** Mean `[2]` and covariance `[a, b, c]` for [[a, b], [b, c]] of points `[N * 2]`, with the divisor N - 1. */
  function moments(x) {
    const n = x.length / 2,
      mean = [0, 0],
      cov = [0, 0, 0];
    for (let i = 0; i < x.length; i++) mean[i % 2] += x[i] / n;
    for (let i = 0; i < x.length; i += 2) {
      const u = x[i] - mean[0],
        v = x[i + 1] - mean[1];
      cov[0] += (u * u) / (n - 1);
      cov[1] += (u * v) / (n - 1);
      cov[2] += (v * v) / (n - 1);
    }
    return { mean, cov };
  }

  /** `norm(m_a - m_b)^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))` (Dowson and Landau 1982).

      In the plane the trace of the root is sqrt(tr(S_a S_b) + 2 sqrt(det(S_a S_b))). */
  function frechet_distance(a, b) {
    const trace = a.cov[0] * b.cov[0] + 2 * a.cov[1] * b.cov[1] + a.cov[2] * b.cov[2];
    const det = ({ cov }) => Math.max(cov[0] * cov[2] - cov[1] ** 2, 0);
    const root = Math.sqrt(trace + 2 * Math.sqrt(det(a) * det(b)));
    const apart = (a.mean[0] - b.mean[0]) ** 2 + (a.mean[1] - b.mean[1]) ** 2;
    return apart + Math.max(a.cov[0] + a.cov[2] + b.cov[0] + b.cov[2] - 2 * root, 0);
  }

  const square = (x, i, y, j) => (x[2 * i] - y[2 * j]) ** 2 + (x[2 * i + 1] - y[2 * j + 1]) ** 2;

  /** The squared distance of every point to its k-th nearest neighbour among the others. */
  function radii(x, k) {
    const n = x.length / 2;
    return Float64Array.from({ length: n }, (_, i) => {
      const all = Float64Array.from({ length: n }, (_, j) => square(x, i, x, j)).sort();
      return all[k];
    });
  }

  /** The share of the points x that lie in a ball around a point of y. */
  function covered(x, y, radius) {
    const n = x.length / 2,
      m = y.length / 2;
    let count = 0;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < m; j++)
        if (square(x, i, y, j) <= radius[j]) {
          count++;
          break;
        }
    return count / n;
  }

  /** Precision and recall with balls to the k-th neighbour (Kynkaanniemi et al. 2019, eq. 1 to 3). */
  const precision_recall = (real, generated, k = 3) => ({
    precision: covered(generated, real, radii(real, k)),
    recall: covered(real, generated, radii(generated, k)),
  });

  return { moments, frechet_distance, precision_recall };
});

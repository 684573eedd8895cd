/* Sums in log scale, grids of numbers, and noise that depends on a seed, an image and a step alone. */
define("arrays", [], () => {
  /** `n` evenly spaced numbers from the first to the last, both included; one number is the first. */
  const linspace = (first, last, n) =>
    Float64Array.from({ length: n }, (_, i) => (n === 1 ? first : first + ((last - first) * i) / (n - 1)));

  /** `log sum_i exp(x_i)`, without overflow. */
  function logsumexp(x) {
    let most = -Infinity,
      sum = 0;
    for (const value of x) if (value > most) most = value;
    for (const value of x) sum += Math.exp(value - most);
    return most + Math.log(sum);
  }

  /** The value at x of the line through the points (xs, ys), xs increasing; constant outside. */
  function interp(x, xs, ys) {
    const last = xs.length - 1;
    if (x <= xs[0]) return ys[0];
    if (x >= xs[last]) return ys[last];
    let low = 0,
      high = last;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle;
      else high = middle;
    }
    return ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / (xs[high] - xs[low]);
  }

  /** `exp(entropy)` of probabilities, given by their logarithms: how many values they are spread over. */
  function perplexity(log_prob) {
    let entropy = 0;
    for (const value of log_prob) if (value > -700) entropy -= Math.exp(value) * value;
    return Math.exp(entropy);
  }

  /** A generator of numbers in (0, 1), sfc32, whose stream is set by three integers. */
  function uniform_stream(seed, image, step) {
    let a = seed | 0,
      b = image | 0,
      c = step | 0,
      count = 1;
    const draw = () => {
      const t = (((a + b) | 0) + count) | 0;
      count = (count + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + t) | 0;
      return ((t >>> 0) + 0.5) / 4294967296;
    };
    for (let i = 0; i < 15; i++) draw();
    return draw;
  }

  /** Standard normal noise `[B * D]`: that of image i depends on the seed, on i and on the step alone. */
  function noise(seed, num, dim, step, first = 0) {
    const z = new Float64Array(num * dim);
    for (let i = 0; i < num; i++) {
      const draw = uniform_stream(seed, first + i, step);
      for (let j = 0; j < dim; j += 2) {
        const radius = Math.sqrt(-2 * Math.log(draw())),
          angle = 2 * Math.PI * draw();
        z[i * dim + j] = radius * Math.cos(angle);
        if (j + 1 < dim) z[i * dim + j + 1] = radius * Math.sin(angle);
      }
    }
    return z;
  }

  return { linspace, logsumexp, interp, perplexity, uniform_stream, noise };
});

/* The two worlds: mixtures of Gaussians in the plane, and the handwritten digits, each with its exact denoiser. */
define("worlds", ["arrays", "analytic", "guidance", "digits"], (
  { uniform_stream, noise },
  { GaussianMixture, FiniteData },
  { classifier_free },
  digits,
) => {
  const CLEAN = { t: 0, signal: 1, sigma: 0, log_snr: Infinity };

  /** A round mixture from its means [[x, y], ...], one variance and the class of each component. */
  function mixture(means, variance, label_of) {
    const n = means.length;
    const model = new GaussianMixture(
      new Float64Array(n).fill(1 / n),
      Float64Array.from(means.flat()),
      new Float64Array(n).fill(variance),
    );
    return { model, label_of };
  }

  /** A spiral of 24 Gaussians, as the picture that opens the README; its inner and its outer half are classes. */
  function spiral() {
    const angles = Array.from({ length: 24 }, (_, k) => Math.sqrt(0.1 + (0.9 * k) / 23) * 3.6 * Math.PI);
    return mixture(
      angles.map((a) => [0.19 * a * Math.cos(a), 0.19 * a * Math.sin(a)]),
      0.02,
      angles.map((_, k) => (k < 12 ? 0 : 1)),
    );
  }

  /** Eight Gaussians on a ring, of two classes in turn. */
  function ring() {
    const angles = Array.from({ length: 8 }, (_, k) => ((k + 0.5) * Math.PI) / 4);
    return mixture(
      angles.map((a) => [1.6 * Math.cos(a), 1.6 * Math.sin(a)]),
      0.03,
      angles.map((_, k) => k % 2),
    );
  }

  /** Three wide Gaussians that overlap, each a class. */
  const clusters = () =>
    mixture(
      [
        [-1.1, -0.6],
        [1.1, -0.6],
        [0, 1.2],
      ],
      0.2,
      [0, 1, 2],
    );

  class World {
    /** @param label_of the class of each component or image; `name` is that of the data. */
    constructor(kind, name, { model, label_of }) {
      Object.assign(this, { kind, name, model, label_of, dim: model.dim });
      this.num_classes = Math.max(...label_of) + 1;
      this.class_models = Array.from({ length: this.num_classes }, (_, label) => model.only(this.members(label)));
    }

    /** The components or images of a class. */
    members(label) {
      return Array.from(this.label_of.keys()).filter((k) => this.label_of[k] === label);
    }

    /** The exact denoiser, guided towards a class if there is one: label is null for none. */
    denoiser(label, guidance_scale) {
      const of = (model) => (x, level) =>
        level.sigma === 0 ? { x_0: x, eps: new Float64Array(x.length) } : model.denoiser(x, level);
      if (label === null) return of(this.model);
      const conditional = of(this.class_models[label]);
      return guidance_scale === 1 ? conditional : classifier_free(conditional, of(this.model), guidance_scale);
    }

    /** Clean points or images `[num * dim]`, of one class or of all. */
    sample(seed, num, label) {
      const model = label === null ? this.model : this.class_models[label],
        x_0 = new Float64Array(num * this.dim);
      const spread = model.variances ? noise(seed, num, this.dim, -2) : null;
      for (let i = 0; i < num; i++) {
        const k = Math.floor(uniform_stream(seed, i, -1)() * model.num);
        for (let j = 0; j < this.dim; j++) {
          const at = i * this.dim + j,
            from = k * this.dim + j;
          x_0[at] = spread ? model.means[from] + Math.sqrt(model.variances[k]) * spread[at] : model.points[from];
        }
      }
      return x_0;
    }
  }

  const PLANE = { spiral, ring, clusters };

  /** Some of the digits in [-1, 1]: level k of 0..16 is round(255 k / 16) / 127.5 - 1. */
  function images(first, last) {
    const scale = Float64Array.from({ length: 17 }, (_, k) => Math.round((255 * k) / 16) / 127.5 - 1);
    return Float64Array.from(digits.levels.slice(64 * first, 64 * last), (letter) => scale[letter.charCodeAt(0) - 65]);
  }

  const made = {};
  /** The world of that kind and data, made once. */
  function world(kind, name) {
    const full = kind === "plane" ? name : "digits";
    if (kind === "plane") return (made[full] ??= new World(kind, name, PLANE[name]()));
    const train = {
      model: new FiniteData(images(0, digits.num_train), 64),
      label_of: Array.from(digits.labels.slice(0, digits.num_train), Number),
    };
    return (made[full] ??= new World(kind, "digits", train));
  }

  /** Digits that are not in the training set `[n * 64]`. */
  const held_out = () => images(digits.num_train, digits.labels.length);

  return { CLEAN, PLANE, world, held_out, images };
});

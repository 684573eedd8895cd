/* The trained network beside the exact answer: evaluated in a worker, one image at a time, and compared over t. */
define("comparison", ["arrays", "schedules", "worlds", "charts", "words"], (
  { noise },
  { NoiseSchedule },
  { held_out },
  { Chart },
  { words },
) => {
  const $ = (id) => document.getElementById(id);
  const TIMES = [1000, 850, 700, 600, 500, 400, 300, 220, 150, 100, 60, 30, 10, 1],
    DIGITS = 8,
    ALONG = 24;

  /** What the worker does: it makes the network, and answers questions about images. */
  function answer({ unet }) {
    let network;
    onmessage = ({ data }) => {
      if (data.weights) network = new unet.UNet(data.arch, unet.parameters(data.shapes, data.weights));
      else postMessage(network.eps(data.x, data.t));
    };
  }

  const rms = (a, b, start = 0) =>
    Math.sqrt(a.reduce((sum, value, j) => sum + (value - b[start + j]) ** 2, 0) / a.length);

  class Network {
    /** @param stored what network.js has; `changed` is called after each answer. */
    constructor(stored, changed) {
      this.worker = worker_of(["unet"], answer);
      this.worker.postMessage(stored);
      this.schedule = new NoiseSchedule(Float64Array.from(stored.alpha_bar));
      Object.assign(this, { changed, questions: [], known: new WeakMap(), asked: new WeakSet(), truth: [] });
      this.worker.onmessage = ({ data }) => this.told(data);
    }

    /** The estimate of x_0 from an image at a level, clipped; nothing until the worker has answered. */
    x_0(x, level, is_urgent = false) {
      if (!this.known.has(x) && !this.asked.has(x)) {
        this.asked.add(x);
        this.questions[is_urgent ? "unshift" : "push"]({ x, level });
        if (!this.current) this.ask();
      }
      return this.known.get(x);
    }

    ask() {
      this.current = this.questions.shift();
      if (this.current)
        this.worker.postMessage({ x: this.current.x, t: this.schedule.time(this.current.level.log_snr) });
    }

    told(eps) {
      const { x, level } = this.current;
      this.known.set(
        x,
        x.map((value, j) => Math.min(1, Math.max(-1, (value - level.sigma * eps[j]) / level.signal))),
      );
      this.ask();
      this.changed();
    }

    /** Forgets what has not been asked yet, after a change of the chain. */
    forget() {
      for (const { x } of this.questions) this.asked.delete(x);
      this.questions = [];
    }
  }

  let examples;
  /** Digits that are not in the training data, noised at each time: what the truth is, and what both answer. */
  function noised_examples(model) {
    if (examples?.schedule === model.schedule) return examples;
    const all = held_out(),
      eps = noise(11, DIGITS, 64, 0),
      cases = [];
    for (const t of TIMES)
      for (let i = 0; i < DIGITS; i++) {
        const level = model.schedule.level(t),
          truth = all.subarray(64 * 61 * i, 64 * 61 * i + 64);
        const x = truth.map((value, j) => level.signal * value + level.sigma * eps[64 * i + j]);
        cases.push({ t, level, truth, x, exact: model.world.model.denoiser(x, level).x_0 });
      }
    return (examples = { schedule: model.schedule, cases });
  }

  /** The mean over the digits, at each time, of an error; a time is left out until all its errors are known. */
  function mean_over_t(cases, error) {
    return TIMES.flatMap((t) => {
      const errors = cases.filter((one) => one.t === t).map(error);
      return errors.some((value) => value === undefined)
        ? []
        : [[t, errors.reduce((a, b) => a + b, 0) / errors.length]];
    });
  }

  const axes = () => ({
    x: { range: [1000, 0], ticks: [1000, 500, 0], format: (t) => (t === 1000 ? "t = 1000" : t) },
    y: { range: [0, 1.25], ticks: [0, 0.5, 1] },
  });

  /** Both charts. */
  function draw(model, network) {
    const gap = new Chart($("gap"), axes()),
      truth = new Chart($("truth"), axes()),
      t = model.times[model.frame];
    gap.now(t);
    truth.now(t);
    const colours = [
      [words().exact_short, "prediction"],
      [words().network_short, "network"],
    ];
    truth.legend(colours);
    if (!network) return;
    const stride = Math.max(1, Math.round(model.num_steps / ALONG)),
      along = [];
    for (let frame = 0; frame < model.num_steps; frame += stride) {
      const x = model.followed.x(frame),
        exact = model.followed.x_0(frame),
        guess = exact && network.x_0(x, model.level(frame));
      if (guess) along.push([model.times[frame], rms(guess, exact)]);
    }
    gap.line(along, "network");
    const { cases } = noised_examples(model);
    truth.line(
      mean_over_t(cases, ({ exact, truth: real }) => rms(exact, real)),
      "prediction",
    );
    truth.line(
      mean_over_t(cases, ({ x, level, truth: real }) => {
        const guess = network.x_0(x, level);
        return guess && rms(guess, real);
      }),
      "network",
    );
  }

  /** Loads the network's script, if it is not there yet. */
  function stored(address) {
    if (modules.network) return Promise.resolve(modules.network);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: address, onload: () => resolve(modules.network), onerror: reject });
      document.head.append(script);
    });
  }

  return { Network, stored, draw };
});

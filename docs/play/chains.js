/* Chains that are computed step by step between two pictures, so that the page never waits for one. */
define("chains", ["arrays", "samplers", "metrics"], (
  { noise },
  { SAMPLERS },
  { moments, frechet_distance, precision_recall },
) => {
  class Chain {
    /** @param setting {sampler, eta, denoise, transitions, seed, dim}.
        @param num number of samples, of which the first has the number `first`.
        @param x_T `[num * dim]`; drawn from the seed if it is left out. */
    constructor(setting, num, { first = 0, x_T = noise(setting.seed, num, setting.dim, 0, first) } = {}) {
      Object.assign(this, { setting, num, first, states: [{ x: x_T }], x_0s: [], evaluations: 0 });
      this.step = SAMPLERS[setting.sampler](setting.eta);
    }

    get is_done() {
      return this.x_0s.length === this.setting.transitions.length;
    }

    /** One step. */
    advance() {
      const { transitions, denoise, seed, dim } = this.setting,
        n = this.x_0s.length;
      const taken = this.step(denoise, noise(seed, this.num, dim, n + 1, this.first), this.states[n], transitions[n]);
      this.states.push(taken.state);
      this.x_0s.push(taken.x_0);
      this.evaluations += taken.evaluations;
    }

    /** Steps until the chain is done, one for each value that the caller asks for. */
    *run() {
      while (!this.is_done) {
        this.advance();
        yield;
      }
    }

    /** The last frame that is known, up to the one that is asked for. */
    reached(frame) {
      return Math.min(frame, this.states.length - 1);
    }

    /** Every x of the chain at a frame, and the estimate of x_0 there. */
    x(frame) {
      return this.states[this.reached(frame)].x;
    }

    x_0(frame) {
      const at = this.reached(frame);
      return at < this.x_0s.length ? this.x_0s[at] : this.is_done ? this.x(at) : null;
    }

    /** Puts x in the place of a frame; what came after it has to be computed again. */
    restart(frame, x) {
      this.states.length = frame + 1;
      this.x_0s.length = Math.min(this.x_0s.length, frame);
      this.states[frame] = { x };
    }
  }

  const COUNTS = [1, 2, 3, 5, 10, 20, 50, 100];
  const POINTS = 300;

  /** Precision, recall and the Frechet distance of points of the plane for several numbers of steps, one by one.

      @param transitions_of the chain of n steps.
      @param real as many draws of the data.
      @param reference the exact moments of the data.
      @param rows where each row of the result is put. */
  function* quality(setting, transitions_of, { real, reference }, rows) {
    for (const num_steps of COUNTS) {
      const chain = new Chain({ ...setting, transitions: transitions_of(num_steps) }, POINTS, { first: 5000 });
      yield* chain.run();
      const generated = chain.x(num_steps);
      const frechet = frechet_distance(reference, moments(generated));
      rows.push({ num_steps, evaluations: chain.evaluations, frechet, ...precision_recall(real, generated) });
      yield;
    }
  }

  return { Chain, quality, COUNTS, POINTS };
});

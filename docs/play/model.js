/* What the page shows, made from the state: the world, its chains, and the process of noising beside them. */
define("model", ["arrays", "schedules", "timesteps", "worlds", "chains"], (
  { noise, perplexity },
  { SCHEDULES },
  { GRIDS },
  { world },
  { Chain, quality, POINTS },
) => {
  const T = 1000,
    FOLLOWED = { plane: 1, digits: 8 },
    SAMPLES = { plane: 400, digits: 8 },
    ENDS = { plane: 60, digits: 9 };
  const OTHERS = 1000; // the number of the first chain of those from one start
  const schedules = Object.fromEntries(Object.entries(SCHEDULES).map(([name, make]) => [name, make(T)]));

  class Model {
    constructor(state) {
      this.state = state;
      this.remake();
    }

    /** Makes everything again, after a choice that changes the chains. */
    remake() {
      const { state } = this;
      this.world = world(state.world, state.data);
      this.schedule = schedules[state.schedule];
      this.label = state.label >= 0 && state.label < this.world.num_classes ? state.label : null;
      this.denoise = this.world.denoiser(this.label, state.guidance_scale);
      this.transitions = this.transitions_of(state.num_steps);
      this.num_steps = this.transitions.length;
      this.times = [...this.transitions.map(({ now }) => now.t), 0];
      this.setting = {
        sampler: state.sampler,
        eta: state.eta,
        denoise: this.denoise,
        transitions: this.transitions,
        seed: state.seed,
        dim: this.world.dim,
      };
      this.chain = new Chain(this.setting, SAMPLES[state.world]);
      this.x_0 = this.world.sample(state.seed, SAMPLES[state.world], this.label);
      this.eps = noise(state.seed, SAMPLES[state.world], this.world.dim, -3);
      this.follow();
      this.rows = [];
      this.frame = this.nearest(state.t);
      this.tasks = [this.chain.run()];
      if (state.world === "plane") this.tasks.push(this.measured());
    }

    /** The transitions of a chain of n steps. */
    transitions_of(n) {
      return this.schedule.transitions(GRIDS[this.state.grid](this.schedule, n));
    }

    /** The frame whose time is nearest to t. */
    nearest(t) {
      return this.times.reduce((best, time, i) => (Math.abs(time - t) < Math.abs(this.times[best] - t) ? i : best), 0);
    }

    /** Begins the chain that is followed, and those that have the same start. */
    follow() {
      const { dim } = this.world,
        first = Math.min(this.state.follow, FOLLOWED[this.state.world] - 1);
      this.followed = new Chain(this.setting, 1, { first });
      this.counts = [];
      const x_T = this.followed.x(0),
        copies = (num) => Float64Array.from({ length: num * dim }, (_, i) => x_T[i % dim]);
      const ends = (sampler, eta, num) =>
        new Chain({ ...this.setting, sampler, eta }, num, { first: OTHERS, x_T: copies(num) });
      const with_noise = this.state.sampler === "ddim" && this.state.eta > 0 ? this.state.eta : 0;
      this.ends = {
        ddpm: ends("ancestral", 0, ENDS[this.state.world]),
        ddim: ends("ddim", with_noise, with_noise ? ENDS[this.state.world] : 1),
      };
      this.later = [this.ends.ddim.run(), this.ends.ddpm.run()];
    }

    /** Puts x in the place of the present image of the chain that is followed. */
    edit(x) {
      this.followed.restart(this.frame, x);
      this.counts.length = Math.min(this.counts.length, this.frame);
    }

    *measured() {
      const real = this.world.sample(this.state.seed + 7, POINTS, this.label);
      const data = { real, reference: this.distribution.moments() };
      yield* quality(this.setting, (n) => this.transitions_of(n), data, this.rows);
    }

    /** Computes for some milliseconds; whether something is new. The chain that is followed comes first. */
    work(milliseconds) {
      const until = performance.now() + milliseconds;
      let is_new = false;
      while (performance.now() < until) {
        if (!this.followed.is_done) this.followed.advance();
        else if (this.counts.length <= this.num_steps) this.counts.push(this.possible(this.counts.length));
        else {
          const queue =
            this.tasks.length && this.later.length
              ? this.chain.is_done
                ? this.later
                : this.tasks
              : this.tasks.length
                ? this.tasks
                : this.later;
          if (!queue.length) return is_new;
          if (queue[0].next().done) queue.shift();
        }
        is_new = true;
      }
      return is_new;
    }

    /** The level of a frame; the last one is that of the step before, since at t = 0 nothing is uncertain. */
    level(frame = this.frame) {
      return this.schedule.level(Math.max(this.times[frame], 1));
    }

    /** The data, or those of a class, if one is chosen. */
    get distribution() {
      return this.label === null ? this.world.model : this.world.class_models[this.label];
    }

    /** `log q(original | x_t)` for the chain that is followed, at a frame, whatever class is chosen. */
    log_posterior(frame = this.frame) {
      return this.world.model.log_posterior(this.followed.x(frame), this.level(frame));
    }

    /** How many originals are possible: the perplexity of the posterior. */
    possible(frame = this.frame) {
      return perplexity(this.log_posterior(frame));
    }

    /** The forward process at the present time: `x_t = signal x_0 + sigma eps`. */
    noised() {
      const { signal, sigma } = this.schedule.level(this.times[this.frame]);
      return this.x_0.map((value, i) => signal * value + sigma * this.eps[i]);
    }
  }

  return { Model, T, SAMPLES };
});

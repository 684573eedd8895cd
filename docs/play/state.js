/* What the reader has chosen, and the address that keeps it: `#stop=2&t=500`, a stop of the tour and what differs. */
define("state", [], () => {
  const STEPS = [1, 2, 3, 5, 10, 20, 50, 100, 250, 500, 1000];
  const CHOICES = {
    world: ["plane", "digits"],
    data: ["spiral", "ring", "clusters"],
    schedule: ["linear", "cosine", "quadratic", "sigmoid"],
    sampler: ["ancestral", "ddim", "heun", "dpm_solver_pp_2m"],
    grid: ["trailing", "uniform", "quadratic", "log_snr", "karras"],
    lang: ["en", "ko"],
    theme: ["light", "dark"],
  };
  const RANGES = {
    eta: [0, 1],
    num_steps: [1, 1000],
    guidance_scale: [0, 8],
    label: [-1, 9],
    seed: [0, 9999],
    t: [0, 1000],
    follow: [0, 7],
    stop: [1, 8],
  };
  const DEFAULTS = {
    world: "plane",
    data: "spiral",
    schedule: "linear",
    sampler: "ancestral",
    grid: "trailing",
    eta: 0,
    num_steps: 100,
    guidance_scale: 1,
    label: -1,
    seed: 0,
    t: 1000,
    follow: 0,
    stop: 1,
    lang: "",
    theme: "",
  };

  /** The stops of the tour: the section of the notes, the panel that matters, and what is set. */
  const STOPS = [
    { name: "kernel", section: "2-the-diffusion-kernel-composes-in-closed-form", panel: "schedule", set: { t: 120 } },
    {
      name: "posterior",
      section: "9-the-network-estimates-a-posterior-average-of-the-noise",
      panel: "posterior",
      set: { world: "digits", t: 300 },
    },
    { name: "score", section: "15-the-network-is-the-score", panel: "posterior", set: { data: "ring", t: 250 } },
    {
      name: "ddpm",
      section: "5-denoising-as-ddpm-is-andersons-reverse-sde",
      panel: "ends",
      set: { data: "ring", t: 0 },
    },
    {
      name: "ddim",
      section: "6-denoising-as-ddim-follows-the-probability-flow-ode",
      panel: "ends",
      set: { data: "ring", sampler: "ddim", t: 0 },
    },
    {
      name: "fourier",
      section: "14-fourier-the-outline-first-the-detail-last",
      panel: "spectra",
      set: { world: "digits", sampler: "ddim", t: 400 },
    },
    {
      name: "guidance",
      section: "17-guidance-without-a-classifier",
      panel: "quality",
      set: { data: "clusters", label: 2, guidance_scale: 4, t: 0 },
    },
    {
      name: "speed",
      section: "1-quality-diversity-and-speed",
      panel: "quality",
      set: { sampler: "ddim", num_steps: 10, t: 0 },
    },
  ];

  /** The state at a stop, before a reader changes it. */
  const at_stop = (stop) => ({ ...DEFAULTS, ...STOPS[stop - 1].set, stop });

  /** The number of steps that the page offers which is nearest to one. */
  const nearest = (value) => STEPS.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best));

  /** A number that an address gives for a name, or nothing if it is out of range. */
  function number(name, text) {
    const value = Number(text),
      [low, high] = RANGES[name];
    if (text.trim() === "" || !(value >= low && value <= high)) return undefined;
    if (name === "num_steps") return nearest(value);
    return ["eta", "guidance_scale", "t"].includes(name) ? value : Math.round(value);
  }

  /** The state that an address asks for; what it does not name, or names wrongly, is that of its stop. */
  function from_hash(hash) {
    const asked = new URLSearchParams(hash.replace(/^#/, "")),
      state = at_stop(number("stop", asked.get("stop") ?? "") ?? 1);
    for (const [name, text] of asked) {
      const value = name in RANGES ? number(name, text) : CHOICES[name]?.find((choice) => choice === text);
      if (value !== undefined) state[name] = value;
    }
    return state;
  }

  /** The address of a state. */
  function to_hash(state) {
    const usual = at_stop(state.stop),
      parts = Object.keys(DEFAULTS).filter((name) => state[name] !== usual[name]);
    if (state.stop !== 1) parts.unshift("stop");
    return parts
      .map((name) => `${name}=${typeof state[name] === "number" ? +state[name].toFixed(2) : state[name]}`)
      .join("&");
  }

  return { STEPS, CHOICES, RANGES, DEFAULTS, STOPS, at_stop, from_hash, to_hash };
});

/* The panels below the stage: originals that are possible, ends, quality, spectra, schedule. */
define("panels", ["drawing", "charts", "plane", "images", "spectrum", "words", "model"], (
  { digit, prepared },
  { Chart },
  plane,
  images,
  { band_power_of, forward_power },
  { words },
  { T },
) => {
  const $ = (id) => document.getElementById(id);
  const band_power = band_power_of(8),
    SHOWN = 5;
  const over_t = { range: [T, 0], ticks: [1000, 500, 0], format: (t) => (t === T ? `t = ${T}` : t) };
  const over_steps = () => ({ range: [1, 100], ticks: [1, 10, 100], is_log: true, label: words().steps_axis });
  const rounded = (p) => (p < 9.95 ? p.toFixed(1) : Math.round(p).toLocaleString("en"));

  function item() {
    const li = document.createElement("li");
    li.innerHTML = '<canvas aria-hidden="true"></canvas><span class="bar"></span><small></small>';
    return li;
  }

  /** The likeliest originals with their probabilities, and how many are possible, over t. */
  function posterior(model) {
    const log_posterior = model.log_posterior(),
      { kind } = model.world,
      list = $("likeliest");
    while (list.children.length < SHOWN) list.append(item());
    const best = Array.from(log_posterior.keys()).sort((a, b) => log_posterior[b] - log_posterior[a]);
    possible(model, log_posterior.length);
    Array.from(list.children).forEach((li, place) => original(li.firstElementChild, model, best[place]));
    // Words last: what is written makes the next question for a size a new layout.
    Array.from(list.children).forEach((li, place) => share(li, log_posterior[best[place]]));
    $("perplexity").textContent =
      (model.label === null ? "" : words().whatever_class) + words()[`perplexity_${kind}`](rounded(model.possible()));
  }

  /** One original in its small canvas. */
  function original(canvas, model, k) {
    if (k === undefined) return;
    if (model.world.kind === "plane") return plane.original(canvas, model, k);
    const { context, w, h } = prepared(canvas);
    digit(context, model.world.model.points, [0, 0, w, h], "data", 64 * k);
  }

  /** The probability of an original, given its logarithm, as a bar and in words; nothing where there are fewer originals. */
  function share(li, log_probability) {
    const [, bar, text] = li.children,
      percent = 100 * Math.exp(log_probability ?? -Infinity);
    li.hidden = log_probability === undefined;
    bar.style.setProperty("--share", `${percent}%`);
    text.textContent = percent < 0.1 ? "<0.1\u202f%" : `${percent.toFixed(percent < 9.95 ? 1 : 0)}\u202f%`;
  }

  function possible(model, num) {
    const ticks = num > 100 ? [1, 10, 100, 1000] : num > 8 ? [1, 5, 24] : [1, num];
    const shown = new Chart($("possible"), {
      x: over_t,
      y: { range: [1, Math.max(num, 1000 * (num > 100))], ticks, is_log: true },
    });
    shown.line(
      model.counts.map((count, frame) => [model.times[frame], count]),
      "prediction",
    );
    shown.now(model.times[model.frame]);
    shown.dots([[model.times[model.frame], model.possible()]], "prediction", 4);
    shown.legend([[words().possible_axis, "quiet"]]);
  }

  /** The ends of DDPM and of DDIM from the start of the chain that is followed. */
  function ends(model) {
    const { ddpm, ddim } = model.ends;
    const draw = model.world.kind === "plane" ? (canvas, chain) => plane.ends(canvas, model, chain) : images.ends;
    draw($("ends_ddpm"), ddpm);
    draw($("ends_ddim"), ddim);
  }

  /** Precision, recall and the Frechet distance against the number of steps. */
  function quality({ rows, state }) {
    const at = (name) => rows.map((row) => [row.num_steps, row[name]]),
      steps = state.num_steps;
    const shares = new Chart($("shares"), {
      x: { ...over_steps(), label: "" },
      y: { range: [0, 1], ticks: [0, 0.5, 1] },
      left: 36,
    });
    if (steps <= 100) shares.now(steps);
    shares.line(at("precision"), "data");
    shares.line(at("recall"), "noise");
    shares.dots(at("precision"), "data");
    shares.dots(at("recall"), "noise");
    shares.legend(
      [
        [words().precision, "data"],
        [words().recall, "noise"],
      ],
      "right",
    );
    const distance = new Chart($("frechet"), {
      x: over_steps(),
      y: { range: [1e-3, 10], ticks: [0.001, 0.1, 10], is_log: true },
      left: 36,
    });
    if (steps <= 100) distance.now(steps);
    distance.line(at("frechet"), "x_t");
    distance.dots(at("frechet"), "x_t");
    distance.legend([[words().frechet, "x_t"]]);
  }

  /** The mean band power of images `[n * 64]`. */
  function mean_power(x) {
    const n = x.length / 64,
      total = [0, 0, 0, 0, 0];
    for (let i = 0; i < n; i++)
      band_power(x.subarray(64 * i, 64 * (i + 1))).forEach((power, k) => (total[k] += power / n));
    return total;
  }

  let data_power;
  /** Power by frequency: of x_t, of the estimate of x_0, of the data, and of the noise in x_t. */
  function spectra(model) {
    const level = model.schedule.level(model.times[model.frame]),
      estimate = model.chain.x_0(model.frame);
    data_power ??= mean_power(model.world.model.points);
    const y = { range: [1e-3, 100], ticks: [0.001, 0.1, 10], is_log: true };
    const shown = new Chart($("spectra"), {
      x: { range: [0, 4], ticks: [0, 1, 2, 3, 4], label: words().bands_axis },
      y,
      left: 36,
    });
    const along = (powers) => powers.map((power, k) => [k, power]);
    shown.line(
      [
        [0, level.sigma ** 2],
        [4, level.sigma ** 2],
      ],
      "noise",
      { dash: [4, 3] },
    );
    shown.line(along(data_power), "data");
    shown.line(along(forward_power(data_power, level)), "x_t", { dash: [2, 3], width: 1 });
    shown.line(along(mean_power(model.chain.x(model.frame))), "x_t");
    if (estimate) shown.line(along(mean_power(estimate)), "prediction");
    shown.legend(
      [
        [words().data_short, "data"],
        [words().x_t_short, "x_t"],
        ["x̂₀", "prediction"],
        [words().noise, "noise"],
      ],
      "right",
    );
  }

  /** Signal, noise and log-SNR over t, with the times of the chain. */
  function schedule(model) {
    const { times, frame, schedule: all } = model,
      t = times[frame],
      each = Array.from({ length: 101 }, (_, i) => Math.max(10 * i, 0));
    const levels = each.map((time) => all.level(time));
    const scales = new Chart($("scales"), { x: over_t, y: { range: [0, 1], ticks: [0, 0.5, 1] } });
    scales.feet(times, "quiet");
    scales.now(t);
    scales.line(
      levels.map(({ signal }, i) => [each[i], signal]),
      "data",
    );
    scales.line(
      levels.map(({ sigma }, i) => [each[i], sigma]),
      "noise",
    );
    scales.legend(
      [
        [words().signal, "data"],
        [words().sigma, "noise"],
      ],
      "left",
    );
    const ratio = new Chart($("log_snr"), { x: over_t, y: { range: [-12, 10], ticks: [-10, 0, 10] } });
    ratio.now(t);
    ratio.line(
      each.slice(1).map((time, i) => [time, Math.min(levels[i + 1].log_snr, 10)]),
      "ink",
    );
    ratio.legend([[words().log_snr_axis, "quiet"]]);
  }

  /** Makes a panel large, in the place of the stage, or small again; no panel if it is null. */
  function enlarge(panel) {
    for (const figure of document.querySelectorAll("[data-panel]")) {
      const is_large = figure === panel && !figure.classList.contains("large");
      figure.classList.toggle("large", is_large);
      figure.querySelector("figcaption button").setAttribute("aria-expanded", is_large);
    }
    document.body.classList.toggle("enlarged", document.querySelector(".large") !== null);
  }

  return { enlarge, posterior, ends, quality, spectra, schedule, rounded };
});

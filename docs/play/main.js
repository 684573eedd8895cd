/* The page: it holds the state, computes a little before each picture, and draws what has changed. */
define("main", [
  "state",
  "words",
  "drawing",
  "model",
  "plane",
  "images",
  "panels",
  "comparison",
  "controls",
  "tour",
  "gestures",
], (states, words, drawing, { Model }, plane, images, panels, comparison, controls, tour, gestures) => {
  const $ = (id) => document.getElementById(id),
    root = document.documentElement,
    form = document.querySelector(".controls form");
  const calm = matchMedia("(prefers-reduced-motion: reduce)"),
    dark = matchMedia("(prefers-color-scheme: dark)");
  const BUDGET = 10; // milliseconds of computation before each picture
  const SECONDS = 7; // from noise to data

  let state = states.from_hash(location.hash),
    model = new Model(state),
    network = null;
  let is_playing = false,
    last = 0,
    part = 0,
    is_awake = false,
    is_stale = true,
    are_ends_stale = true;

  /** Asks for a new picture; the page sleeps while none is needed. */
  function refresh() {
    is_stale = true;
    if (is_awake) return;
    is_awake = true;
    last = performance.now();
    requestAnimationFrame(tick);
  }

  /** Asks for a new picture of everything, the ends included. */
  function redraw() {
    are_ends_stale = true;
    refresh();
  }

  function set_frame(frame) {
    model.frame = Math.min(Math.max(frame, 0), model.num_steps);
    state.t = model.times[model.frame];
    refresh();
  }

  /** Changes the state, and makes again what depends on it. */
  function change(changes) {
    Object.assign(state, changes);
    const reached = model.times[model.frame];
    if (!("t" in changes)) state.t = reached;
    model.remake();
    network?.forget();
    show();
  }

  /** Follows another one of the chains. */
  function follow(k) {
    state.follow = k;
    model.follow();
    network?.forget();
    show();
  }

  function go(stop) {
    const { lang, theme } = state;
    state = model.state = { ...states.at_stop(stop), lang, theme };
    play(false);
    panels.enlarge(null);
    model.remake();
    network?.forget();
    show();
    if (stop === 4 || stop === 5 || stop === 8) start_over();
  }

  /** Plays from the noise, unless the reader prefers less motion. */
  function start_over() {
    if (calm.matches) return;
    set_frame(0);
    play(true);
  }

  function play(is_on) {
    is_playing = is_on;
    refresh();
    if (is_on && model.frame >= model.num_steps) set_frame(0);
    part = model.frame;
    document.body.classList.toggle("playing", is_on);
    $("play").setAttribute("aria-label", words.words()[is_on ? "pause" : "play"]);
    if (!is_on) keep();
  }

  /** Keeps the state in the address. */
  function keep() {
    const hash = states.to_hash(state);
    try {
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    } catch {
      // a frame without an address, as in a notebook
    }
  }

  /** The name of the words for what the exact answer is: without a class or guidance, it is one average. */
  function exact_words() {
    const { guidance_scale } = state;
    if (model.label === null || guidance_scale === 0) return "exact_what";
    return guidance_scale === 1 ? "exact_class" : "exact_guided";
  }

  /** Shows the state: words, theme, controls, tour. */
  function show() {
    if (state.lang) words.choose(state.lang);
    root.dataset.theme = state.theme || (dark.matches ? "dark" : "light");
    document.body.dataset.world = state.world;
    $("exact").dataset.word = exact_words();
    words.write();
    drawing.read_colours();
    for (const button of document.querySelectorAll(".worlds button"))
      button.setAttribute("aria-pressed", button.value === state.world);
    controls.show(form, state, model.world.num_classes);
    tour.show(state.stop);
    $("time").max = model.num_steps;
    Array.from($("chains").children).forEach((button, k) => {
      button.setAttribute("aria-pressed", k === state.follow);
      button.setAttribute("aria-label", words.words().chain(k + 1));
    });
    const is_offered = Boolean(root.dataset.network || modules.network),
      is_conditional = model.label !== null;
    document.body.classList.toggle("with-network", network !== null && !is_conditional);
    $("load").hidden = !is_offered || is_conditional;
    $("offer").textContent = words.words()[is_conditional ? "unconditional" : is_offered ? "offer" : "no_network"];
    play(is_playing);
    keep();
    redraw();
  }

  function draw_digits() {
    const { frame, followed, chain } = model,
      x = followed.x(frame),
      exact = followed.x_0(frame);
    const guess = network && model.label === null ? network.x_0(x, model.level(), true) : null;
    images.single($("image"), x, "x_t");
    images.single($("estimate"), exact, "prediction");
    images.single($("guess"), guess, "network");
    images.difference($("difference"), exact, guess);
    Array.from($("chains").children).forEach((button, k) =>
      images.single(button.firstElementChild, chain.x(frame), "x_t", 64 * k),
    );
    images.row($("noised"), model.noised(), 8, "x_t");
    panels.spectra(model);
    comparison.draw(model, model.label === null ? network : null);
  }

  function draw() {
    if (state.world === "plane") {
      plane.reverse($("reverse"), model);
      plane.forward($("forward"), model);
      panels.quality(model);
    } else draw_digits();
    panels.schedule(model);
    if (are_ends_stale) panels.ends(model);
    panels.posterior(model);
    const t = Math.round(model.times[model.frame]);
    $("time").value = model.frame;
    $("time").setAttribute("aria-valuetext", words.words().time_spoken(t, panels.rounded(model.possible())));
    document.querySelector(".transport output").textContent = words.words().time_value(t);
  }

  /** One picture: time goes on if the page plays, then some computation, then what has changed is drawn. */
  function tick(now) {
    const passed = Math.min(now - last, 100);
    last = now;
    if (is_playing) {
      const stride = calm.matches ? Math.max(1, Math.round(model.num_steps / 8)) : 1;
      part = Math.min(part + (passed / 1000 / SECONDS) * model.num_steps, model.chain.states.length - 1);
      const frame = Math.min(
        Math.floor(part / stride) * stride + (part >= model.num_steps ? stride : 0),
        model.num_steps,
      );
      if (frame !== model.frame) set_frame(frame);
      if (model.frame >= model.num_steps) play(false);
    }
    const is_new = model.work(BUDGET);
    are_ends_stale ||= is_new;
    if (is_new || is_stale) draw();
    is_stale = are_ends_stale = false;
    is_awake = is_playing || is_new;
    if (is_awake) requestAnimationFrame(tick);
  }

  /** Loads the network; where that fails, the button can be pressed again. */
  async function load() {
    $("load").disabled = true;
    $("load").textContent = words.words().loading;
    try {
      network = new comparison.Network(await comparison.stored(root.dataset.network), refresh);
    } finally {
      $("load").disabled = false;
      show();
    }
  }

  /** Copies the address of the state; where a browser refuses that, says that it is the address of the page. */
  async function share() {
    keep();
    const button = $("share");
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = words.words().copied;
    } catch {
      button.textContent = words.words().address;
    }
  }

  /** What a reader moves by hand. */
  const page = {
    x: () => model.followed.x(model.frame),
    signal: () => model.level().signal,
    edit(x) {
      model.edit(x);
      redraw();
    },
    play,
    is_playing: () => is_playing,
    step: (by) => set_frame(model.frame + by),
  };

  function make() {
    for (const name of states.CHOICES.world) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", value: name });
      button.dataset.word = name;
      button.addEventListener("click", () => change({ world: name, label: -1 }));
      document.querySelector(".worlds").append(button);
    }
    for (let k = 0; k < 8; k++) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(document.createElement("canvas"));
      button.addEventListener("click", () => follow(k));
      $("chains").append(button);
    }
    for (const figure of document.querySelectorAll("[data-panel]"))
      figure.querySelector("figcaption button").addEventListener("click", () => {
        panels.enlarge(figure);
        redraw();
      });
    controls.make(form, (name, value) => change({ [name]: value }));
    tour.make(go, () => state.stop);
    $("play").addEventListener("click", () => play(!is_playing));
    $("time").addEventListener("input", ({ target }) => {
      play(false);
      set_frame(Number(target.value));
    });
    $("time").addEventListener("change", keep);
    $("draw").addEventListener("click", () => change({ seed: (state.seed + 1) % 10000 }));
    $("share").hidden = location.protocol === "about:"; // in a notebook, where the page has no address
    $("share").addEventListener("click", share);
    $("load").addEventListener("click", load);
    $("language").addEventListener("click", () => {
      state.lang = words.other();
      show();
    });
    $("theme").addEventListener("click", () => {
      state.theme = root.dataset.theme === "dark" ? "light" : "dark";
      show();
    });
    dark.addEventListener("change", show);
    addEventListener("hashchange", () => {
      state = model.state = states.from_hash(location.hash);
      model.remake();
      show();
    });
    new ResizeObserver(redraw).observe(document.querySelector("main"));
    gestures.make(page);
    show();
  }

  make();
  return { model: () => model, state: () => state, draw, redraw };
});

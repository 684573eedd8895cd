/* The plane: density, score, points of both processes, and the point that a reader drags. */
define("plane", ["drawing"], ({ prepared, raster, dot, colour }) => {
  const HEIGHT = 3; // of the part of the plane that is shown, from its middle
  const FINE = 44; // rows of the density
  let density = {};

  /** The functions from the plane to a canvas and back. */
  function frame_of({ w, h }) {
    const scale = h / 2 / HEIGHT;
    return {
      place: (x, y) => [w / 2 + scale * x, h / 2 - scale * y],
      point: (a, b) => [(a - w / 2) / scale, (h / 2 - b) / scale],
      scale,
    };
  }

  /** Centres of a grid over a canvas as flat points. */
  function grid(view, columns, rows) {
    const { point } = frame_of(view);
    return Float64Array.from({ length: 2 * columns * rows }, (_, i) => {
      const cell = i >> 1,
        at = point(((cell % columns) + 0.5) * (view.w / columns), (Math.floor(cell / columns) + 0.5) * (view.h / rows));
      return at[i % 2];
    });
  }

  /** The density of the noisy data as shares of its largest value; kept until the time changes. */
  function density_of(model, view, level) {
    const columns = Math.round((FINE * view.w) / view.h),
      key = [level.t, columns, model.distribution];
    if (density.key?.every((part, i) => part === key[i])) return density;
    const log_prob = model.distribution.log_prob(grid(view, columns, FINE), level);
    const most = log_prob.reduce((a, b) => Math.max(a, b), -Infinity);
    return (density = { key, columns, values: log_prob.map((value) => 0.62 * Math.exp(value - most) ** 0.7) });
  }

  function arrow(context, x, y, dx, dy) {
    const length = Math.hypot(dx, dy);
    if (length < 1.5) return;
    const [u, v] = [dx / length, dy / length],
      head = Math.min(4, 0.4 * length);
    context.moveTo(x - dx / 2, y - dy / 2);
    context.lineTo(x + dx / 2, y + dy / 2);
    for (const side of [-1, 1]) {
      context.moveTo(x + dx / 2, y + dy / 2);
      context.lineTo(x + dx / 2 - head * (u + side * 0.6 * v), y + dy / 2 - head * (v - side * 0.6 * u));
    }
  }

  /** The score as arrows; a long one is shortened, so that the direction can be seen everywhere. */
  function score(context, model, view, level) {
    const cell = 30,
      columns = Math.floor(view.w / cell),
      rows = Math.floor(view.h / cell),
      points = grid(view, columns, rows);
    const { eps } = model.denoise(points, level),
      { place } = frame_of(view);
    context.beginPath();
    for (let i = 0; i < eps.length; i += 2) {
      const u = -eps[i] / level.sigma,
        v = -eps[i + 1] / level.sigma,
        size = Math.hypot(u, v),
        length = (0.75 * cell * size) / (size + 1.5);
      if (size > 0) arrow(context, ...place(points[i], points[i + 1]), (length * u) / size, (-length * v) / size);
    }
    Object.assign(context, { strokeStyle: colour("ink"), lineWidth: 1, globalAlpha: 0.38 });
    context.stroke();
    context.globalAlpha = 1;
  }

  function points(context, view, x, radius, name, alpha) {
    const { place } = frame_of(view);
    Object.assign(context, { fillStyle: colour(name), globalAlpha: alpha });
    context.beginPath();
    for (let i = 0; i < x.length; i += 2) {
      const [a, b] = place(x[i], x[i + 1]);
      context.moveTo(a + radius, b);
      context.arc(a, b, radius, 0, 2 * Math.PI);
    }
    context.fill();
    context.globalAlpha = 1;
  }

  function stroke(context, view, path, name, { width = 1.5, dash = [] } = {}) {
    const { place } = frame_of(view);
    context.beginPath();
    path.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](...place(x, y)));
    Object.assign(context, { strokeStyle: colour(name), lineWidth: width, lineJoin: "round" });
    context.setLineDash(dash);
    context.stroke();
    context.setLineDash([]);
  }

  const large = (context, at, name, radius = 6) => {
    context.lineWidth = 2;
    dot(context, ...at, radius, colour(name), colour("raised"));
  };

  /** The means of the Gaussians, each as strong as its probability given the point that is followed. */
  function originals(context, model, view) {
    const log_posterior = model.log_posterior(),
      { means } = model.world.model,
      { place } = frame_of(view);
    context.lineWidth = 1.75;
    log_posterior.forEach((value, k) => {
      context.globalAlpha = 0.15 + 0.85 * Math.exp(value);
      dot(context, ...place(means[2 * k], means[2 * k + 1]), 3 + 6 * Math.exp(value), null, colour("data"));
    });
    context.globalAlpha = 1;
  }

  /** The reverse process; nothing where the canvas is not shown. */
  function reverse(canvas, model) {
    if (!canvas.clientHeight) return;
    const view = prepared(canvas),
      { context } = view,
      { place } = frame_of(view),
      level = model.level(),
      { frame, followed } = model;
    const { columns, values } = density_of(model, view, level);
    raster(context, values, columns, [0, 0, view.w, view.h], "data", { smooth: true });
    score(context, model, view, level);
    points(context, view, model.chain.x(frame), 1.9, "x_t", 0.75);
    originals(context, model, view);
    const path = Array.from({ length: followed.reached(frame) + 1 }, (_, i) => followed.x(i));
    context.globalAlpha = 0.6;
    stroke(context, view, path, "x_t");
    context.globalAlpha = 1;
    const x = followed.x(frame),
      x_0 = followed.x_0(frame);
    if (x_0) {
      stroke(context, view, [x, x_0], "prediction", { dash: [4, 3] });
      large(context, place(...x_0), "prediction", 5);
    }
    large(context, place(...x), "x_t", 8);
  }

  /** The forward process: the same density, with points that are noised data. */
  function forward(canvas, model) {
    if (!canvas.clientHeight) return;
    const view = prepared(canvas),
      { context } = view,
      { place } = frame_of(view),
      x = model.noised();
    const { columns, values } = density_of(model, view, model.level());
    raster(context, values, columns, [0, 0, view.w, view.h], "data", { smooth: true });
    points(context, view, model.x_0, 1.6, "data", 0.55);
    points(context, view, x, 1.9, "x_t", 0.75);
    const { signal } = model.schedule.level(model.times[model.frame]),
      [x_0, y_0] = model.x_0;
    stroke(
      context,
      view,
      [
        [x_0, y_0],
        [signal * x_0, signal * y_0],
      ],
      "data",
    );
    stroke(
      context,
      view,
      [
        [signal * x_0, signal * y_0],
        [x[0], x[1]],
      ],
      "noise",
      { width: 2 },
    );
    large(context, place(x_0, y_0), "data");
    large(context, place(x[0], x[1]), "x_t", 8);
  }

  /** Chains from one start: their paths and ends. */
  function ends(canvas, model, chain) {
    const view = prepared(canvas),
      { context } = view,
      { place } = frame_of(view),
      last = chain.states.length - 1;
    points(context, view, model.x_0, 1.2, "data", 0.3);
    context.globalAlpha = chain.num > 1 ? 0.22 : 1;
    for (let i = 0; i < Math.min(chain.num, 24); i++)
      stroke(
        context,
        view,
        chain.states.map(({ x }) => [x[2 * i], x[2 * i + 1]]),
        "x_t",
        { width: 1 },
      );
    context.globalAlpha = 1;
    if (chain.is_done) points(context, view, chain.x(last), 2.6, "x_t", 1);
    large(context, place(chain.x(0)[0], chain.x(0)[1]), "noise", 5);
  }

  /** A map of the Gaussians with one of them marked. */
  function original(canvas, model, k) {
    const { context, w, h } = prepared(canvas),
      { means } = model.world.model,
      scale = w / 2 / HEIGHT;
    const place = (i) => [w / 2 + scale * means[2 * i], h / 2 - scale * means[2 * i + 1]];
    for (let i = 0; i < means.length / 2; i++) dot(context, ...place(i), 1.1, colour("quiet"));
    dot(context, ...place(k), 3.5, colour("data"));
  }

  return { HEIGHT, frame_of, reverse, forward, ends, original };
});

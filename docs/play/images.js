/* The digits: the chain that is followed, its exact answer and the network's, eight chains, and eight noised digits. */
define("images", ["drawing"], ({ prepared, digit, raster, colour }) => {
  const whole = ({ w, h }) => [0, 0, w, h];

  /** One image that fills a canvas; nothing if there is none. */
  function single(canvas, x, name, start = 0) {
    const view = prepared(canvas);
    if (x) digit(view.context, x, whole(view), name, start);
  }

  /** Images in a row of a canvas, with a gap between them. */
  function row(canvas, x, num, name) {
    const { context, w, h } = prepared(canvas),
      gap = 4,
      side = Math.min((w - gap * (num - 1)) / num, h);
    for (let i = 0; i < num; i++) digit(context, x, [i * (side + gap), 0, side, side], name, 64 * i);
  }

  /** The absolute difference of two images, from 0 to 1. */
  function difference(canvas, a, b) {
    const view = prepared(canvas);
    if (a && b)
      raster(
        view.context,
        a.map((value, j) => Math.abs(value - b[j])),
        8,
        whole(view),
        "ink",
        { ground: "sunk" },
      );
  }

  /** The ends of chains from one start, in a square block. */
  function ends(canvas, chain) {
    const { context, w, h } = prepared(canvas),
      x = chain.x(chain.states.length - 1),
      columns = Math.sqrt(chain.num),
      gap = 4;
    const rows = chain.num / columns,
      side = Math.min((w - gap * (columns - 1)) / columns, (h - gap * (rows - 1)) / rows);
    const left = (w - columns * side - gap * (columns - 1)) / 2;
    context.globalAlpha = chain.is_done ? 1 : 0.5;
    for (let i = 0; i < chain.num; i++)
      digit(
        context,
        x,
        [left + (i % columns) * (side + gap), Math.floor(i / columns) * (side + gap), side, side],
        "x_t",
        64 * i,
      );
  }

  return { single, row, difference, ends };
});

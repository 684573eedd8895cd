/* What a reader does by hand: dragging the point of the plane, painting on a digit, and the keys. */
define("gestures", ["plane"], ({ frame_of }) => {
  const $ = (id) => document.getElementById(id);
  const ARROWS = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };

  /** Calls `f(event, is_first)` while the pointer is down on a canvas. */
  function while_down(canvas, page, f) {
    canvas.addEventListener("pointerdown", (event) => {
      page.play(false);
      canvas.setPointerCapture(event.pointerId);
      f(event, true);
    });
    canvas.addEventListener("pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && f(event, false));
  }

  /** The point of the plane follows the pointer, or the arrow keys. */
  function dragging(page) {
    const canvas = $("reverse");
    while_down(canvas, page, ({ offsetX, offsetY }) => {
      const view = { w: canvas.clientWidth, h: canvas.clientHeight };
      page.edit(Float64Array.from(frame_of(view).point(offsetX, offsetY)));
    });
    canvas.addEventListener("keydown", (event) => {
      const by = ARROWS[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      page.edit(page.x().map((value, i) => value + by[i]));
    });
  }

  /** The pointer paints on x_t: the first pixel decides whether it draws or rubs out. */
  function painting(page) {
    const canvas = $("image");
    let ink = 1;
    while_down(canvas, page, ({ offsetX, offsetY }, is_first) => {
      const at = (value) => Math.min(7, Math.max(0, Math.floor((8 * value) / canvas.clientWidth)));
      const x = Float64Array.from(page.x()),
        j = 8 * at(offsetY) + at(offsetX);
      if (is_first) ink = x[j] > 0 ? -1 : 1;
      x[j] = ink * page.signal();
      page.edit(x);
    });
  }

  /** The space bar plays and pauses, and the arrow keys take a step, unless they mean something else at that place. */
  function keys(page) {
    addEventListener("keydown", (event) => {
      const { target, key } = event;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (target.closest?.("input, select, button, summary, a")) return;
      if (key === " ") page.play(!page.is_playing());
      else if (key === "ArrowRight") page.step(1);
      else if (key === "ArrowLeft") page.step(-1);
      else return;
      event.preventDefault();
    });
  }

  /** @param page what a reader moves: x and signal of the chain that is followed, edit, play, is_playing, step. */
  function make(page) {
    dragging(page);
    painting(page);
    keys(page);
  }

  return { make };
});

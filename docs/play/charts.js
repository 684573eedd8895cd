/* Charts with axes in a canvas. */
define("charts", ["drawing"], ({ prepared, colour, dot }) => {
  const TOP = 17; // pixels above the plot, for its words, in a small chart; a large one is drawn enlarged
  const RIGHT = 8;

  /** A function from a range to [0, 1], whose ends may be in either order; values outside are put at an end. */
  function scale_of([first, last], is_log) {
    const at = is_log ? Math.log : (value) => value,
      low = Math.min(first, last),
      high = Math.max(first, last);
    return (value) => (at(Math.min(Math.max(value, low), high)) - at(first)) / (at(last) - at(first));
  }

  class Chart {
    /** Draws the axes.

        @param x, y {range, ticks, is_log, label, format} of each; `left` is the room for the numbers of y. */
    constructor(canvas, { x, y, left = 30 }) {
      const view = prepared(canvas),
        { context } = view,
        zoom = Math.min(Math.max(view.w / 320, 1), 1.6);
      const w = view.w / zoom,
        h = view.h / zoom;
      context.scale(zoom, zoom);
      Object.assign(this, { context, x, y, w, h, left, bottom: x.label ? 27 : 15 });
      this.across = scale_of(x.range, x.is_log);
      this.up = scale_of(y.range, y.is_log);
      context.font = `10.5px ${colour("font")}`;
      context.lineWidth = 1;
      for (const value of y.ticks) {
        this.stroke(
          [
            [x.range[0], value],
            [x.range[1], value],
          ],
          colour("line"),
        );
        this.write(String(value), left - 5, this.place(x.range[0], value)[1] + 3.5, "quiet", "right");
      }
      for (const value of x.ticks) {
        const share = this.across(value),
          align = share > 0.97 ? "right" : share < 0.03 ? "left" : "center";
        this.write((x.format ?? String)(value), this.place(value, y.range[0])[0], h - this.bottom + 12, "quiet", align);
      }
      if (x.label) this.write(x.label, left + (w - left - RIGHT) / 2, h - 3, "quiet", "center");
    }

    place(a, b) {
      const { w, h, left, bottom } = this;
      return [left + this.across(a) * (w - left - RIGHT), h - bottom - this.up(b) * (h - bottom - TOP)];
    }

    stroke(points, style) {
      this.context.beginPath();
      points.forEach(([a, b], i) => this.context[i ? "lineTo" : "moveTo"](...this.place(a, b)));
      this.context.strokeStyle = style;
      this.context.stroke();
    }

    write(text, a, b, name, align = "left") {
      this.context.fillStyle = colour(name);
      this.context.textAlign = align;
      this.context.fillText(text, a, b);
    }

    line(points, name, { width = 2, dash = [] } = {}) {
      this.context.save();
      Object.assign(this.context, { lineWidth: width, lineJoin: "round" });
      this.context.setLineDash(dash);
      this.stroke(points, colour(name));
      this.context.restore();
    }

    dots(points, name, radius = 3) {
      for (const point of points) dot(this.context, ...this.place(...point), radius, colour(name));
    }

    /** A thin line at a value of x: the present. */
    now(value) {
      this.line(
        [
          [value, this.y.range[0]],
          [value, this.y.range[1]],
        ],
        "quiet",
        { width: 1, dash: [2, 2] },
      );
    }

    /** Short strokes at the foot of the chart. */
    feet(values, name) {
      this.context.globalAlpha = 0.5;
      for (const value of values) {
        const [a, b] = this.place(value, this.y.range[0]);
        this.context.strokeStyle = colour(name);
        this.context.beginPath();
        this.context.moveTo(a, b);
        this.context.lineTo(a, b - 5);
        this.context.stroke();
      }
      this.context.globalAlpha = 1;
    }

    /** Words above the chart, each in the colour of what it names. */
    legend(entries) {
      let from = this.left;
      for (const [text, name] of entries) {
        this.write(text, from, 10, name);
        from += this.context.measureText(text).width + 10;
      }
    }
  }

  return { Chart };
});

/* Drawing on canvases: their size, the colours of the theme, rasters, small images, dots. */
define("drawing", [], () => {
  let palette = {};

  /** Reads the colours of the theme, which every drawing uses from then on. */
  function read_colours() {
    const style = getComputedStyle(document.documentElement);
    const names = ["ground", "raised", "sunk", "line", "ink", "quiet", "data", "noise", "x_t", "prediction", "network"];
    palette = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    palette.font = getComputedStyle(document.body).fontFamily;
  }

  const colour = (name) => palette[name];

  /** A colour as three numbers in 0..255. */
  function rgb(name) {
    const text = palette[name],
      long = text.length === 4 ? text.replace(/[^#]/g, "$&$&") : text;
    return [1, 3, 5].map((at) => parseInt(long.slice(at, at + 2), 16));
  }

  /** The context of a canvas that is cleared and has a pixel for each of the screen, and its size in CSS pixels. */
  function prepared(canvas) {
    const ratio = Math.min(window.devicePixelRatio || 1, 2),
      w = canvas.clientWidth,
      h = canvas.clientHeight;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, w, h);
    return { context, w, h };
  }

  const small = document.createElement("canvas");

  /** A raster of numbers in [0, 1] in a box of a canvas, from the ground to a colour; smooth or in squares. */
  function raster(context, values, columns, [x, y, w, h], name, { ground = "raised", smooth = false } = {}) {
    const rows = values.length / columns,
      low = rgb(ground),
      high = rgb(name);
    small.width = columns;
    small.height = rows;
    const inside = small.getContext("2d"),
      picture = inside.createImageData(columns, rows);
    for (let i = 0; i < values.length; i++) {
      const part = Math.min(1, Math.max(0, values[i]));
      for (let k = 0; k < 3; k++) picture.data[4 * i + k] = low[k] + part * (high[k] - low[k]);
      picture.data[4 * i + 3] = 255;
    }
    inside.putImageData(picture, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, x, y, w, h);
  }

  /** An image of 8x8 numbers in [-1, 1] that fills a box; its ink has the colour of what it is. */
  function digit(context, x, box, name, start = 0) {
    raster(
      context,
      Array.from({ length: 64 }, (_, j) => (x[start + j] + 1) / 2),
      8,
      box,
      name,
      { ground: "sunk" },
    );
  }

  function dot(context, x, y, radius, fill, edge) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    }
    if (edge) {
      context.strokeStyle = edge;
      context.stroke();
    }
  }

  return { read_colours, colour, rgb, prepared, raster, digit, dot };
});

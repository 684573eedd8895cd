/* The modules of this page: classic scripts, so that it opens from a disk, kept as text too, for its worker.

   Names are those of the Python package (snake_case, x_0, log_snr); each file says which module it follows. Arrays are
   flat: B images of D numbers are one Float64Array of B * D. */
"use strict";

const modules = {};
const sources = {};

/** Makes a module from the modules that it needs, and keeps its source. */
function define(name, needs, make) {
  sources[name] = `define(${JSON.stringify(name)}, ${JSON.stringify(needs)}, ${make});`;
  modules[name] = make(...needs.map((need) => modules[need]));
}

/** A worker that has the named modules, and runs `main(modules)`. */
function worker_of(names, main) {
  const parts = [
    '"use strict"; const modules = {}, sources = {};',
    define,
    ...names.map((name) => sources[name]),
    `(${main})(modules);`,
  ];
  const address = URL.createObjectURL(new Blob([parts.join("\n")], { type: "text/javascript" }));
  return new Worker(address);
}

/* The settings: a form made of the choices and ranges of the state. */
define("controls", ["state", "words"], ({ STEPS, CHOICES }, { words }) => {
  const SLIDERS = {
    num_steps: {
      min: 0,
      max: STEPS.length - 1,
      step: 1,
      shown: (value) => value.toLocaleString("en"),
      to: (state) => STEPS.indexOf(state),
      from: (at) => STEPS[at],
    },
    eta: {
      min: 0,
      max: 1,
      step: 0.05,
      shown: (value) => value.toFixed(2),
      to: (value) => value,
      from: (value) => value,
    },
    guidance_scale: {
      min: 0,
      max: 8,
      step: 0.25,
      shown: (value) => value.toFixed(2),
      to: (value) => value,
      from: (value) => value,
    },
  };
  const ORDER = ["data", "sampler", "num_steps", "eta", "schedule", "grid", "label", "guidance_scale"];

  const element = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content.firstElementChild;
  };
  const title = (name) => `<span><span data-word="${name}"></span>`;

  /** What a reader may choose for a name. */
  function options(name, num_classes) {
    if (name !== "label") return CHOICES[name].map((value) => [value, words()[value]]);
    const first = num_classes === 10 ? 0 : 1;
    return [[-1, words().any], ...Array.from({ length: num_classes }, (_, k) => [k, String(k + first)])];
  }

  /** Makes the form; `change(name, value)` is called when a reader changes something. */
  function make(form, change) {
    for (const name of ORDER) {
      const slider = SLIDERS[name];
      const range = () => `min="${slider.min}" max="${slider.max}" step="${slider.step}"`;
      const inside = slider
        ? `${title(name)}<output></output></span><input type="range" name="${name}" data-label="${name}" ${range()}>`
        : `${title(name)}</span><select name="${name}"></select>`;
      const label = form.appendChild(element(`<label class="${slider ? "whole" : ""}">${inside}</label>`));
      label.addEventListener(slider ? "input" : "change", ({ target }) => {
        change(
          name,
          slider ? slider.from(Number(target.value)) : name === "label" ? Number(target.value) : target.value,
        );
      });
    }
    const buttons = ["draw", "share"].map((name) => `<button type="button" id="${name}" data-word="${name}"></button>`);
    form.append(element(`<div class="seed">${buttons.join("")}</div>`));
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Shows a state in the form. */
  function show(form, state, num_classes) {
    for (const name of ORDER) {
      const field = form.elements[name],
        label = field.closest("label"),
        slider = SLIDERS[name];
      if (slider) {
        field.value = slider.to(state[name]);
        label.querySelector("output").textContent = slider.shown(state[name]);
        field.setAttribute("aria-valuetext", slider.shown(state[name]));
      } else {
        field.replaceChildren(...options(name, num_classes).map(([value, text]) => new Option(text, value)));
        field.value = name === "label" && state.label >= num_classes ? -1 : state[name];
      }
    }
    const uses = {
      data: state.world === "plane",
      eta: state.sampler === "ddim",
      guidance_scale: state.label >= 0 && state.label < num_classes,
    };
    for (const [name, is_used] of Object.entries(uses)) {
      form.elements[name].disabled = !is_used;
      form.elements[name].closest("label").classList.toggle("off", !is_used);
    }
    form.elements.data.closest("label").hidden = state.world !== "plane";
  }

  return { make, show };
});

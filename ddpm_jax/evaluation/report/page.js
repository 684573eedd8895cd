for (const scrubber of document.querySelectorAll(".scrubber")) {
  const slider = scrubber.querySelector("input");
  const times = slider.dataset.times.split(" ");
  const show = () => {
    const time = times[slider.valueAsNumber];
    scrubber.style.setProperty("--at", slider.valueAsNumber / (times.length - 1));
    scrubber.querySelector("output").textContent = time;
    slider.setAttribute("aria-valuetext", `t = ${time}`);
  };
  slider.addEventListener("input", show);
  show();
}

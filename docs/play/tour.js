/* The tour: eight stops, each with what one section of the notes says, its equation, and something to try. */
define("tour", ["state", "words", "equations"], ({ STOPS }, { words, rich, language }, equations) => {
  const NOTES = "https://github.com/ddpm-jax/ddpm_jax/blob/HEAD/docs/";
  const $ = (query) => document.querySelector(query);

  /** Makes the row of stops; `go(stop)` is called when a reader goes to one, 1 to 8. */
  function make(go, current) {
    STOPS.forEach((_, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.addEventListener("click", () => go(i + 1));
      $(".stops").append(button);
    });
    $("#back").addEventListener("click", () => go(current() - 1));
    $("#forth").addEventListener("click", () => go((current() % STOPS.length) + 1));
  }

  /** Shows a stop. */
  function show(stop) {
    const { name, section, panel } = STOPS[stop - 1],
      [title, text, hint] = words().stops[name];
    $(".stop h2").textContent = title;
    $(".stop .equation").innerHTML = equations[name];
    $(".stop .text").innerHTML = rich(text);
    $(".stop .try").innerHTML = rich(hint);
    $("#back").disabled = stop === 1;
    $("#section").href = `${NOTES}${language() === "ko" ? "ko/" : ""}notes.md#${section}`;
    Array.from($(".stops").children).forEach((button, i) => {
      button.className = i < stop - 1 ? "passed" : "";
      button.toggleAttribute("aria-current", i === stop - 1);
      button.setAttribute("aria-label", `${words().stop(i + 1, STOPS.length)}: ${words().stops[STOPS[i].name][0]}`);
    });
    for (const figure of document.querySelectorAll("[data-panel]"))
      figure.classList.toggle("shown", figure.dataset.panel === panel);
  }

  return { make, show };
});

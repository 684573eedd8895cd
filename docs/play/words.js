/* The words of the page in the language of the reader, who may change it. */
define("words", ["words_en", "words_ko"], (en, ko) => {
  const LANGUAGES = { en, ko };
  let language = (navigator.language || "en").startsWith("ko") ? "ko" : "en";

  /** The words of the language. */
  const words = () => LANGUAGES[language];

  /** Our own words as HTML: x_t and x_0 with an index, in their colours, and no line break within `t = 0`. */
  const rich = (text) =>
    text
      .replace(/x_(t|0)/g, (_, index) => `<i class="${index === "t" ? "x_t" : "data"}">x<sub>${index}</sub></i>`)
      .replace(/ = /g, "\u00a0=\u00a0");

  /** Writes every word of the page, and its labels for readers of screens. */
  function write() {
    document.documentElement.lang = language;
    for (const element of document.querySelectorAll("[data-word]"))
      element.innerHTML = rich(words()[element.dataset.word]);
    for (const element of document.querySelectorAll("[data-label]"))
      element.setAttribute("aria-label", words()[element.dataset.label]);
  }

  const other = () => (language = language === "en" ? "ko" : "en");
  const choose = (name) => (language = name in LANGUAGES ? name : language);

  return { LANGUAGES, words, rich, write, other, choose, language: () => language };
});

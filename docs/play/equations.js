/* The equation of each stop as MathML; what an accent colour stands for has that colour here too. */
define("equations", [], () => {
  const math = (...parts) => `<math display="block">${parts.join("")}</math>`;
  const row = (...parts) => `<mrow>${parts.join("")}</mrow>`;
  const i = (name, of = "") => `<mi${of && ` class="${of}"`}>${name}</mi>`;
  const n = (value) => `<mn>${value}</mn>`;
  const o = (sign) => `<mo${"()[]|‖".includes(sign) ? ' stretchy="false"' : ""}>${sign}</mo>`;
  const sub = (a, b) => `<msub>${a}${b}</msub>`;
  const sup = (a, b) => `<msup>${a}${b}</msup>`;
  const root = (...parts) => `<msqrt>${parts.join("")}</msqrt>`;
  const over = (a, sign) => `<mover accent="true">${a}<mo stretchy="false">${sign}</mo></mover>`;
  const fraction = (a, b) => `<mfrac>${row(a)}${row(b)}</mfrac>`;
  const space = '<mspace width="0.17em"/>';

  const alpha = (time) => sub(over(i("α"), "¯"), i(time));
  const x_0 = sub(i("x", "data"), n(0)),
    x_t = sub(i("x", "x_t"), i("t")),
    x_s = sub(i("x", "x_t"), i("s"));
  const eps = i("ε", "noise"),
    guess = sub(over(i("x", "prediction"), "ˆ"), n(0)),
    eps_guess = over(i("ε", "prediction"), "ˆ");
  const image = sup(i("x", "data"), row(o("("), i("i"), o(")"))),
    given = o("|");
  const noise_part = root(n(1), o("−"), alpha("t"));

  const covariance = (of, name) => sub(i("Σ", of), i(name));
  const product = row(o("("), covariance("data", "a"), covariance("x_t", "b"), o(")"));
  const geometric_mean = sup(product, row(n(1), o("/"), n(2)));

  return {
    kernel: math(x_t, o("="), root(alpha("t")), space, x_0, o("+"), noise_part, space, eps),
    posterior: math(
      i("E"),
      o("["),
      x_0,
      given,
      x_t,
      o("]"),
      o("="),
      `<munder>${o("∑")}${i("i")}</munder>`,
      i("q"),
      o("("),
      image,
      given,
      x_t,
      o(")"),
      space,
      image,
    ),
    score: math(
      o("∇"),
      i("log"),
      space,
      i("q"),
      o("("),
      x_t,
      o(")"),
      o("="),
      fraction(row(o("−"), i("E"), o("["), eps, given, x_t, o("]")), noise_part),
    ),
    ddpm: math(
      x_s,
      o("="),
      i("a"),
      space,
      guess,
      o("+"),
      i("b"),
      space,
      x_t,
      o("+"),
      sub(i("σ"), i("t")),
      space,
      i("z", "noise"),
    ),
    ddim: math(x_s, o("="), root(alpha("s")), space, guess, o("+"), root(n(1), o("−"), alpha("s")), space, eps_guess),
    fourier: math(
      i("E"),
      sup(row(o("|"), sub(over(i("x", "x_t"), "˜"), i("t")), o("|")), n(2)),
      o("="),
      alpha("t"),
      space,
      sup(row(o("|"), sub(over(i("x", "data"), "˜"), n(0)), o("|")), n(2)),
      o("+"),
      n(1),
      o("−"),
      alpha("t"),
    ),
    guidance: math(
      i("ε"),
      o("="),
      i("ε"),
      o("("),
      x_t,
      o(")"),
      o("+"),
      i("γ"),
      space,
      o("("),
      i("ε"),
      o("("),
      x_t,
      o(","),
      i("y", "data"),
      o(")"),
      o("−"),
      i("ε"),
      o("("),
      x_t,
      o(")"),
      o(")"),
    ),
    speed:
      math(
        sup(i("d"), n(2)),
        o("="),
        sup(row(o("‖"), sub(i("μ", "data"), i("a")), o("−"), sub(i("μ", "x_t"), i("b")), o("‖")), n(2)),
      ) +
      math(
        o("+"),
        i("tr"),
        o("("),
        covariance("data", "a"),
        o("+"),
        covariance("x_t", "b"),
        o("−"),
        n(2),
        geometric_mean,
        o(")"),
      ),
  };
});

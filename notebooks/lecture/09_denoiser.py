# %% [markdown]
# ## 9. The network estimates an average
#
# Many images could have led to this $x_t$. The prediction with the least squared error is the average of the noise over all of
# them, weighted by their probabilities:
#
# $$\epsilon^*(x_t, t) = \int \epsilon(x_t \mid x_0)\, q(x_0 \mid x_t)\, dx_0 , \qquad
# q(x_0 \mid x_t) = \frac{q(x_0)\, q(x_t \mid x_0)}{q(x_t)} .$$
#
# For a finite data set the integral is a sum over its images, so the ideal network has a closed form, and so has $q(x_0 \mid x_t)$.
# Its perplexity, $\exp(-\sum_i p_i \log p_i)$, is the number of images that the noisy one could still come from.
#
# [`diffusion/analytic.py`](../ddpm_jax/diffusion/analytic.py): `FiniteData`; `test_lecture_09.py::test_9_10_the_weights_are_bayes_rule`

# %%
# figure: 09_weights
times = np.array([900, 700, 500, 375, 300])
level, eps = schedule.level(times), jax.random.normal(jax.random.key(8), (8, 8, 1))
x_0 = np.repeat(digits[5:6], len(times), axis=0)
x_t = dj.q_sample(x_0, jnp.broadcast_to(eps, x_0.shape), level)
log_prob = remembered.log_prob_point(x_t, level)
plots.candidates(
    x_t, remembered.denoiser(x_t, level).x_0, digits, log_prob,
    rows=[f"t = {t}" for t in times], names=[f"class {k}" for k in labels])

# %% [markdown]
# **What you should see.** A five and one noise, at five noise levels. At $t = 900$ nearly all of the 1,297 digits are equally
# likely, and the prediction is the average of all digits. At $t = 500$ some hundreds are left, of several classes. At $t = 375$ there
# are about a dozen, and at $t = 300$ the right one has nearly all of the probability: the prediction is one digit. In this range
# the noise decides which image it becomes.

# %%
times = np.linspace(1000, 100, 7 if smoke else 37)
num = 5 if smoke else 40
noise = jax.random.normal(jax.random.key(9), (num, 8, 8, 1))
left = [plots.perplexity(remembered.log_prob_point(dj.q_sample(digits[:num], noise, at), at))
        for at in map(schedule.level, times)]

# %%
# figure: 09_perplexity
figure, [axes] = plots.panels(1, width=5.5, height=3.4)
names = ["one digit", *["_"] * (num - 1)]
axes.semilogy(times, left, color=plots.COLOURS[5], linewidth=0.6, label=names)
axes.semilogy(times, np.median(left, axis=1), color=plots.COLOURS[0], linewidth=2.5, label="median")
axes.axhline(1297, color="black", linestyle=":", label="all 1,297 digits")
axes.set(xlabel="t", title=f"perplexity of q(x_0 | x_t) for {num} digits", xlim=(1000, 100))
axes.set(ylabel="about how many images remain possible")
axes.legend(loc="lower left")
figure

# %% [markdown]
# **What you should see.** Each thin line is a digit with its own noise. Nothing is decided before $t$ is about 600, and all is
# decided when $t$ is about 150.
#
# The posterior average has five meanings. It is a weighted average over many $x_0$; the weights depend on the data $q(x_0)$, on
# $x_t$ and on the noise at $t$; and the result is one prediction that takes all $x_0$ into account. For nine numbers as data:

# %%
numbers, uniform = np.linspace(-1, 1, 9)[:, None], np.full(9, 1 / 9)
rising = np.arange(1, 10) / 45


def weights(prior, x_t, t):
    data = dj.analytic.GaussianMixture(prior, numbers, np.zeros((9, 1, 1)))
    level, x = schedule.level(t), jnp.array([[x_t]])
    prob, mean = jnp.exp(data.log_prob_label(x, level))[0], data.denoiser(x, level).x_0
    return np.asarray(prob), float(mean[0, 0])


# %%
pairs = {"q(x_0)": {"equal": (uniform, 0.0, 150), "rising": (rising, 0.0, 150)},
         "x_t": {"x_t = -0.5": (uniform, -0.5, 120), "x_t = 0.5": (uniform, 0.5, 120)},
         "the noise": {"t = 400": (uniform, 0.2, 400), "t = 60": (uniform, 0.2, 60)}}

# %%
# figure: 09_influences
figure, axes = plots.panels(3, width=3.1, height=2.8)
for panel, (title, cases) in zip(axes, pairs.items()):
    for offset, colour, (name, case) in zip([-0.04, 0.04], plots.COLOURS, cases.items()):
        prob, mean = weights(*case)
        panel.bar(numbers[:, 0] + offset, prob, width=0.08, color=colour, label=name)
        panel.axvline(mean, color=colour, linestyle="--", linewidth=1)
    panel.set(title=f"influence of {title}", xlabel="x_0", ymargin=0.35)
    panel.legend(loc="upper left", fontsize=7, ncols=2)
figure

# %% [markdown]
# **What you should see.** Bars are the weights $q(x_0 \mid x_t)$, dashed lines the posterior means. Left: more frequent data have
# more weight. Middle: the weights follow $x_t$. Right: with much noise all data count, with little noise only the nearest.
#
# The proof is by the calculus of variations. Let $L(e)$ be the mean squared error of a prediction $e$, and change it along a
# function $h$: $F_h(a) = L(e + a h)$ (the notes write $s$ for $a$). At the best prediction $F_h'(0) = 0$ for every $h$, and
#
# $$F_h'(0) = 2 \int h(x_t)\, g(x_t)\, q(x_t)\, dx_t , \qquad g(x_t) = e(x_t) - \int \epsilon(x_t \mid x_0)\, q(x_0 \mid x_t)\, dx_0 .$$
#
# Choose $h = g$: $\int g^2 q\,dx_t = 0$, hence $g = 0$. The picture shows $F_h(a)$ for three functions $h$, at the posterior
# average and at a prediction that is not the best.

# %%
num, level = 20_000 if smoke else 200_000, schedule.level(200)
x_0 = mixture.sample(jax.random.key(9), num)
eps = jax.random.normal(jax.random.key(10), x_0.shape)
x_t = dj.q_sample(x_0, eps, level)
average = mixture.denoiser(x_t, level).eps
changes = {"h = sin(3 x)": jnp.sin(3 * x_t), "h = 1": jnp.ones_like(x_t), "h = x": x_t}
shift = np.linspace(-0.5, 0.5, 21)
F = lambda e, h, a: float(jnp.mean((eps - e - a * h) ** 2))

# %%
other = average + 0.2 * jnp.sin(3 * x_t)
at = {"at the posterior average": average, "at another prediction": other}

# %%
# figure: 09_variation
figure, axes = plots.panels(2, width=4.3, sharey=True)
for panel, (title, e) in zip(axes, at.items()):
    for (name, h), colour in zip(changes.items(), plots.COLOURS):
        steepness = 2 * float(jnp.mean(h * (e - average)))  # F_h'(0) by the formula
        panel.plot(shift, [F(e, h, a) for a in shift], ".", color=colour)
        parts, label = [F(e, h, 0), steepness, float(jnp.mean(h**2))], f"F'(0) = {steepness:.2f}"
        plots.parabola(panel, shift, parts, colour=colour, label=f"{name}: {label}")
    panel.set(xlabel="a", ylabel="F_h(a)", title=title)
    panel.legend(loc="upper center", fontsize=7)
figure

# %% [markdown]
# **What you should see.** Points are measured errors, lines are $F_h(0) + a F_h'(0) + a^2 \lVert h\rVert^2$ with the formula above.
# Left: every parabola has its minimum at $a = 0$: no change of the posterior average is better. Right: in the direction of $g$, a
# multiple of $\sin(3x)$, the error falls; so this prediction was not the best.
#
# ### Exercises
#
# **1.** The class of this digit is known to be five. Does that reduce the perplexity at $t = 500$?
#
# <details><summary>Answer</summary>
#
# Yes: the images of the other classes have no weight any more. This is what a conditional model uses.
#
# ```python
# level = schedule.level(500)
# noisy = dj.q_sample(digits[5:6], jax.random.normal(jax.random.key(8), (1, 8, 8, 1)), level)
# fives = dj.analytic.FiniteData(digits[labels == labels[5]])
# open_, given = (plots.perplexity(data.log_prob_point(noisy, level))[0] for data in (remembered, fives))
# assert given < open_ / 2
# ```
#
# </details>
#
# **2.** What is the least mean squared error of any network for the mixture at $t = 200$? Compute it in two ways.
#
# <details><summary>Answer</summary>
#
# It is the mean posterior variance of the noise, $1 - \mathbb E\,\epsilon^{*2}$ per component, about 0.45. A loss cannot fall to 0.
#
# ```python
# least = F(average, 0 * average, 0)
# assert abs(least - (1 - float(jnp.mean(average**2)))) < 0.01
# assert abs(least - 0.451) < 0.01
# ```
#
# </details>
#
# **3.** How large is the perplexity at $t = 1000$, and which image does the prediction show there?
#
# <details><summary>Answer</summary>
#
# Nearly 1,297, the number of images; the prediction is nearly their mean.
#
# ```python
# level = schedule.level(1000)
# noisy = dj.q_sample(digits[5:6], jax.random.normal(jax.random.key(8), (1, 8, 8, 1)), level)
# assert plots.perplexity(remembered.log_prob_point(noisy, level))[0] > 1290
# assert jnp.abs(remembered.denoiser(noisy, level).x_0[0] - digits.mean(axis=0)).max() < 0.1
# ```
#
# </details>

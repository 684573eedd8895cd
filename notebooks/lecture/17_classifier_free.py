# %% [markdown]
# ## 17. Guidance without a classifier
#
# Bayes' rule, read in the other direction, makes a classifier of two scores:
#
# $$\nabla_{x_t} \log p(y \mid x_t) = \nabla_{x_t} \log p(x_t \mid y) - \nabla_{x_t} \log p(x_t) = -\frac{\epsilon(x_t, y) - \epsilon(x_t)}{\sqrt{1-\bar\alpha_t}} .$$
#
# Put this into step 16, and the classifier is gone. In the notes $w$ is the weight with which the difference of the two predictions is added to the conditional one; the argument of the package is $\mathrm{scale} = 1 + w$:
#
# $$\tilde\epsilon = (1 + w)\,\epsilon(x_t, y) - w\,\epsilon(x_t) = \epsilon(x_t) + \mathrm{scale}\, \left( \epsilon(x_t, y) - \epsilon(x_t) \right) .$$
#
# [`diffusion/guidance.py`](../ddpm_jax/diffusion/guidance.py): `classifier_free`, `hide_labels`; `test_guidance.py::test_both_methods_of_guidance_are_one`

# %%
wanted, level = 2, schedule.level(200)
conditional, unconditional = mixture.components[wanted].denoiser, mixture.denoiser
score = lambda denoise: lambda x: dj.prediction.score(denoise(x, level), level)
difference = lambda x: score(conditional)(x) - score(unconditional)(x)
of_classifier = jax.grad(lambda x: mixture.log_prob_label(x, level)[:, wanted].sum())
fields = {"score of the class": score(conditional), "score of all images": score(unconditional)}
fields |= {"their difference": difference, "gradient of the classifier": of_classifier}

# %%
# figure: 17_classifier_free
figure, axes = plots.panels(4, width=2.7, height=2.9)
for panel, (title, field) in zip(axes, fields.items()):
    plots.contours(panel, lambda x: mixture.log_prob(x, level), extent=2)
    plots.arrows(panel, field, extent=2)
    panel.set(title=title)
figure

# %% [markdown]
# **What you should see.** At $t = 200$, over the density of all noisy points: the arrows of the class point to its one Gaussian, those of all images to the nearest of the three. Their
# difference is the same field as the gradient of the exact classifier, which was computed without either of them.
#
# One network gives both predictions: in training a part of the labels is replaced by a null label, at random. The images with the null label are then a random part of *all* images.

# %%
given = dj.guidance.hide_labels(labels[:12], keys(12, seed=4), rate=0.25, null=10)
names = [f"y = {y}" if y < 10 else "null label" for y in given]
plots.strips(digits[None, :12], columns=names, size=0.85)

# %%
grid = dj.timesteps.trailing(schedule, 25 if smoke else 100)
both = dj.guidance.side_by_side(conditional, unconditional)
log_prob = lambda x, level: mixture.log_prob_label(x, level)[:, wanted]
figure, axes = plots.panels(4, width=2.7, height=2.9)
for panel, scale in zip(axes, [0, 1, 2, 4]):
    free = dj.guidance.classifier_free(both, scale)
    guided = dj.guidance.classifier_guided(unconditional, log_prob, scale)
    x, other = (chain(dj.samplers.ddim(), denoise, grid, x_T=x_T) for denoise in (free, guided))
    plots.dots(panel, x, mixture.log_prob, extent=2)
    panel.set(title=f"scale {scale} (w = {scale - 1})\ndifference {jnp.abs(x - other).max():.0e}")
figure

# %% [markdown]
# **What you should see.** Above: with a rate of 1/4, some digits get the null label (published models use 0.1 to 0.2). Below: samples at four scales. The number in the title is the
# largest distance between a sample of this method and that of classifier guidance from the same start: rounding. Both methods are one.
#
# What does a scale above 1 sample? At every $t$ the guided score is that of $p(x_t)\, p(y \mid x_t)^{\mathrm{scale}}$. It is tempting to conclude that the samples have the density
# $p(x_0)\, p(y \mid x_0)^{\mathrm{scale}}$, scaled to integral 1. They do not: adding noise to this density does not give the densities at the later times. On a line all of this can be
# computed: the deterministic sampler maps the quantiles of $x_T$ to those of the samples.

# %%
line = np.linspace(-3, 5, 1601)[:, None]
pair = dj.analytic.GaussianMixture([0.5, 0.5], [[-0.5], [0.5]], [[[0.2]], [[0.2]]])
two = dj.guidance.side_by_side(pair.components[1].denoiser, pair.denoiser)
noise = np.linspace(-4.5, 4.5, 401)  # quantiles of x_T, and below the probability up to each
share = jax.scipy.stats.norm.cdf(noise)
fine = dj.timesteps.log_snr(schedule, 10 if smoke else 60)


def tilted(scale):
    weights = np.exp(pair.log_prob(line) + scale * pair.log_prob_label(line)[:, 1])
    return weights / (weights.sum() * 0.005)


# %%
# figure: 17_scale
figure, axes = plots.panels(3, width=3.5, height=3.0, sharey=True)
for panel, scale in zip(axes, [1, 2, 4]):
    free = dj.guidance.classifier_free(two, scale)
    ends = np.asarray(chain(dj.samplers.heun(), free, fine, x_T=noise[:, None]))[:, 0]
    drawn = np.gradient(share, ends)  # the density: probability per length
    panel.plot(line, np.exp(pair.components[1].log_prob(line)), ":", label="p(x | y)")
    panel.plot(line, tilted(scale), "--", label="p(x) p(y | x)^scale")
    panel.plot(ends, drawn, label="samples")
    panel.set(xlim=(-1, 2.5), xlabel="x_0", title=f"scale {scale}")
axes[0].set(ylabel="density")
plots.legend_below(figure, axes[0])

# %% [markdown]
# **What you should see.** At scale 1 all three densities are one. At a larger scale the tilted density (dashed) only loses the part near the other class. The samples (solid) are
# narrower, and they lie further away from the other class, where even the class itself has few examples. For Gaussians both variances have a closed form (row 17 of the lecture).

# %% [markdown]
# ### Exercises
#
# **1.** Write the guided noise for $w = 0$ and for $w = -1$. Which models are these?
#
# <details><summary>Answer</summary>
#
# $w = 0$ (scale 1) is the conditional model, $w = -1$ (scale 0) the unconditional one. Both are exact, without rounding.
#
# ```python
# for w, denoise in ((0, conditional), (-1, unconditional)):
#     guided = dj.guidance.classifier_free(both, 1 + w)(points, level)
#     assert np.array_equal(guided.eps, denoise(points, level).eps)
# ```
#
# </details>
#
# **2.** All images have the variance 1 and those of the class the variance 0.3, both with mean 0. Which variance have the samples of the deterministic sampler at scale 2, and which the density
# $p(x)\, p(y \mid x)^2$?
#
# <details><summary>Answer</summary>
#
# The samples $0.3^2 \cdot 1^{-1} = 0.09$, the density $1 / (2 / 0.3 - 1 / 1) = 0.176$.
#
# ```python
# of_class, of_all = (dj.analytic.Gaussian([0.0], [[c]]) for c in (0.3, 1.0))
# two_gaussians = dj.guidance.side_by_side(of_class.denoiser, of_all.denoiser)
# steps = dj.timesteps.log_snr(schedule, 60)
# ends = chain(dj.samplers.heun(), dj.guidance.classifier_free(two_gaussians, 2), steps, x_T=jnp.ones((1, 1)))
# assert abs(float(ends[0, 0]) ** 2 - 0.09) < 0.002  # the start 1 is one standard deviation
# ```
#
# </details>
#
# **3.** In a tenth of the training images the label is hidden. Which share of the images with the null label are zeros, and which share of all images?
#
# <details><summary>Answer</summary>
#
# The same, up to chance: what is hidden does not depend on the image.
#
# ```python
# hidden = dj.guidance.hide_labels(labels, keys(len(labels)), rate=0.1, null=10)
# zeros = [float(np.mean(labels[chosen] == 0)) for chosen in (np.asarray(hidden) == 10, labels >= 0)]
# assert abs(zeros[0] - zeros[1]) < 4 * np.sqrt(0.1 * 0.9 / 130)
# ```
#
# </details>

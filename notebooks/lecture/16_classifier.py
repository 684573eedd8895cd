# %% [markdown]
# ## 16. Classifier guidance
#
# The gradient of the logarithm of Bayes' rule has no $p(y)$, because $p(y)$ does not depend on $x_t$:
#
# $$\nabla_{x_t} \log p(x_t \mid y) = \nabla_{x_t} \log p(x_t) + \nabla_{x_t} \log p(y \mid x_t) .$$
#
# So a classifier of *noisy* images turns an unconditional model into a conditional one; the predicted noise becomes
#
# $$\hat\epsilon = \epsilon_\theta(x_t, t) - \sqrt{1-\bar\alpha_t}\; \mathrm{scale}\; \nabla_{x_t} \log p(y \mid x_t) .$$
#
# $p(y \mid x_t)$ is another function at every $t$: $T = 1000$ classifiers would be needed, or one that is conditioned on $t$. The mixture has the exact one,
# `mixture.log_prob_label(x_t, level)`. A classifier of clean images is the same function with the level of $t = 0$, whatever $t$ is.
#
# [`diffusion/guidance.py`](../ddpm_jax/diffusion/guidance.py): `classifier_guided`; `test_guidance.py::test_a_right_classifier_makes_the_class_denoiser`

# %%
wanted, clean = 2, schedule.level(0)
noise_aware = lambda x, level: mixture.log_prob_label(x, level)[:, wanted]
clean_only = lambda x, level: mixture.log_prob_label(x, clean)[:, wanted]
classifiers = {"conditioned on t": noise_aware, "of clean images": clean_only}
grid, level = dj.timesteps.trailing(schedule, 25 if smoke else 250), schedule.level(400)

# %%
asked = mixture.components[wanted]
longest = lambda field: jnp.linalg.norm(field(plots.plane(2)), axis=1).max()
inside = lambda x: asked.log_prob(x) > asked.log_prob(asked.mean[None]) - 4.6  # 99% of the class


def guided_samples(log_prob, scale, sampler=dj.samplers.ancestral(dj.Variance.SMALL)):
    guided = dj.guidance.classifier_guided(mixture.denoiser, log_prob, scale)
    return chain(sampler, guided, grid, x_T=x_T)


# %%
# figure: 16_classifier
figure, axes = plots.panels(4, width=2.7, height=3.3)
for i, (name, log_prob) in enumerate(classifiers.items()):
    gradient, x = jax.grad(lambda x: log_prob(x, level).sum()), guided_samples(log_prob, 1)
    plots.contours(axes[i], lambda x: mixture.log_prob(x, level), extent=2)
    drawn = plots.arrows(axes[i], gradient, extent=2, lengths=(0.1, 200))
    axes[i].set(title=f"classifier {name}\nlongest gradient {longest(gradient):.3g}")
    plots.dots(axes[2 + i], x, mixture.log_prob, extent=2)
    far, by = 1 - jnp.mean(jnp.abs(x).max(axis=1) <= 2), f"guided by the {('first', 'second')[i]}"
    axes[2 + i].set(title=f"class {wanted}, {by}:\n{inside(x).mean():.0%} in it, {far:.0%} outside")
figure.colorbar(drawn, ax=axes[:2], location="bottom", aspect=40, label="length of the gradient")
figure

# %% [markdown]
# **What you should see.** The class that is asked for is the lowest of the three. Left: the gradients of the two classifiers at $t = 400$, over the density of noisy points. The
# noise-aware classifier is in doubt everywhere, and its gradient is short. The classifier of clean images takes the noise for a feature: its gradient is
# many times as long, and it points along the borders that clean points have. Right: the samples. The first classifier, at scale 1, gives exactly the
# distribution of the class; the second pushes the samples out of it, to places where there are no data: most of them diverge and cannot be drawn (the crosses at the edge lie beyond the panel).
#
# For two Gaussian classes of variance $c$ the factor by which the clean gradient is too long has a closed form, which grows with the noise:
#
# $$\frac{\nabla_{x_t}\, \text{log-odds of the clean classifier}}{\nabla_{x_t}\, \text{log-odds of the exact one}} =
# \frac{\bar\alpha_t\, c + 1 - \bar\alpha_t}{\sqrt{\bar\alpha_t}\; c} .$$
#
# The same on digits. The exact classifier of noisy digits compares the densities of the ten classes, each a finite set of images. The other one is the exact classifier of nearly
# clean images ($t = 50$), used at every $t$. The cost of a classifier is $-\log p(y \mid x_t)$ of the right class.

# %%
classes = [dj.analytic.FiniteData(digits[labels == k]) for k in range(10)]
log_joint = lambda x, level: jnp.stack([c.log_prob(x, level) for c in classes], axis=1)
aware = jax.jit(lambda x, level: jax.nn.log_softmax(log_joint(x, level)))

# %%
# figure: 16_digits
times, nats = np.array([250, 300, 400, 500, 600, 800, 1000]), []
for t in times:
    x_t = dj.q_sample(digits[:200], jax.random.normal(key, (200, 8, 8, 1)), schedule.level(t))
    both = [aware(x_t, schedule.level(s)) for s in (t, 50)]
    nats.append([-np.mean(p[np.arange(200), labels[:200]]) for p in both])
figure, (panel,) = plots.panels(1, width=5.5, height=3)
names = ["conditioned on t", "of nearly clean images"]
plots.costs(panel, times, dict(zip(names, np.array(nats).T)))
figure

# %%
x, steps = jax.random.normal(key, (8, 8, 8, 1)), dj.timesteps.trailing(schedule, 50)
log_prob = lambda x, level: aware(x, level)[:, 3]
rows = []
for scale in (0, 1):
    guided = dj.guidance.classifier_guided(remembered.denoiser, log_prob, scale)
    rows.append(chain(dj.samplers.ddim(), guided, steps, x_T=x))
plots.strips(rows, rows=["scale 0", "scale 1, class 3"], size=1)

# %% [markdown]
# **What you should see.** Above: the classifier that is conditioned on $t$ is never worse than a guess among ten classes (grey line, $\log 10$). The other one is sure of a wrong class on
# noisy images, which costs it up to hundreds of nats. Below: digits from the same eight starts $x_T$, with DDIM. Without guidance they have many classes;
# with the first classifier every sample is a 3.
#
# The guidance scale multiplies the gradient:

# %%
figure, axes = plots.panels(4, width=2.7, height=2.9)
for panel, scale in zip(axes, [0, 0.3, 1, 8]):
    x = guided_samples(noise_aware, scale)
    share = jnp.mean(jnp.argmax(mixture.log_prob_label(x), axis=1) == wanted)
    plots.dots(panel, x, mixture.log_prob, extent=2)
    panel.set(title=f"scale {scale}: {share:.0%} of the class")
figure

# %% [markdown]
# **What you should see.** At scale 0 the classes have the shares of the data; at scale 1 the samples have the distribution of the class that is asked for. At a larger scale they
# move away from every region where other classes are likely: clearer examples of the class, and less diverse ones.

# %% [markdown]
# ### Exercises
#
# **1.** The class that is asked for has the probability 0.3. Make it ten times as rare, with the same Gaussian. Which of the three gradients of Bayes' rule change?
#
# <details><summary>Answer</summary>
#
# $\nabla \log p(x_t \mid y)$ does not change: the class is the same. The other two change, and their sum does not.
#
# ```python
# rare = dj.analytic.GaussianMixture([0.4, 0.57, 0.03], mixture.means, mixture.covariances)
# level, parts = schedule.level(200), []
# for data in (mixture, rare):
#     of_all = jax.grad(lambda x: data.log_prob(x, level).sum())(points)
#     of_class = jax.grad(lambda x: data.log_prob_label(x, level)[:, 2].sum())(points)
#     parts.append((of_all, of_class))
# assert np.abs(parts[0][0] - parts[1][0]).max() > 0.5
# assert np.allclose(sum(parts[0]), sum(parts[1]), atol=1e-4)
# ```
#
# </details>
#
# **2.** At $t = 1000$, how strongly does the exact classifier guide, and how strongly the classifier of clean images?
#
# <details><summary>Answer</summary>
#
# $x_{1000}$ says almost nothing about the class, so the exact gradient is nearly 0. The other classifier does not notice.
#
# ```python
# level = schedule.level(1000)
# longest = [
#     float(np.abs(jax.grad(lambda x: log_prob(x, level).sum())(x_T)).max()) for log_prob in (noise_aware, clean_only)
# ]
# assert longest[0] < 0.03 and longest[1] > 10
# ```
#
# </details>
#
# **3.** Is the noisy classifier the clean classifier at the estimate of $x_0$? Compare $p(y \mid x_t)$ with $p(y \mid E[x_0 \mid x_t])$ at $t = 250$.
#
# <details><summary>Answer</summary>
#
# No. It is the average of the clean classifier over the possible $x_0$, and not its value at their average; the second is much too sure.
#
# ```python
# level = schedule.level(250)
# x = dj.q_sample(points, jax.random.normal(key, points.shape), level)
# exact = jnp.exp(noise_aware(x, level))
# at_the_estimate = jnp.exp(clean_only(mixture.denoiser(x, level).x_0, level))
# sure = lambda p: float(jnp.mean((p < 0.01) | (p > 0.99)))
# assert sure(at_the_estimate) > 2 * sure(exact)
# ```
#
# </details>

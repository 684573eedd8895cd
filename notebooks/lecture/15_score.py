# %% [markdown]
# ## 15. The network is the score
#
# The score is the gradient of the log density. For one known clean image it is the noise, up to a factor:
#
# $$\nabla_{x_t} \log q(x_t \mid x_0) = -\frac{x_t - \sqrt{\bar\alpha_t}\, x_0}{1 - \bar\alpha_t} = -\frac{\epsilon}{\sqrt{1-\bar\alpha_t}} .$$
#
# The score of *all* noisy images is the average of these over the clean images that could have led to $x_t$, and the network predicts that average:
#
# $$\nabla_{x_t} \log q(x_t) = \int q(x_0 \mid x_t)\, \nabla_{x_t} \log q(x_t \mid x_0)\, dx_0 = -\frac{\epsilon_\theta(x_t, t)}{\sqrt{1-\bar\alpha_t}} .$$
#
# [`diffusion/prediction.py`](../ddpm_jax/diffusion/prediction.py): `score`; `test_prediction.py::test_the_best_denoiser_is_the_score_of_the_noisy_density`

# %%
# figure: 15_score
few, x_t = dj.analytic.FiniteData(points[:40]), jnp.array([[-0.1, 1.1]])
figure, axes = plots.panels(3, width=3.5, height=3.7)
for panel, level in zip(axes, map(schedule.level, [400, 250, 120])):
    ends = level.signal * few.points
    weights = jax.nn.softmax(-jnp.sum((x_t - ends) ** 2, axis=1) / (2 * level.sigma**2))
    plots.contours(panel, lambda x: few.log_prob(x, level), extent=1.6)
    plots.weighted_arrows(panel, x_t[0], ends, weights)
    exact = jax.grad(lambda x: few.log_prob(x, level).sum())(x_t)  # automatic differentiation
    error = jnp.abs(level.sigma**2 * exact - (weights @ ends - x_t)).max()
    panel.set(title=f"t = {level.t:.0f}, error {error:.0e}")
plots.legend_below(figure, axes[0], columns=2)

# %% [markdown]
# **What you should see.** White dots: 40 clean points $x_0$, scaled by $\sqrt{\bar\alpha_t}$; blue: the density of noisy points. From $x_t$ (black) a line leads to each
# possible $\sqrt{\bar\alpha_t}\, x_0$, the darker the greater its weight $q(x_0 \mid x_t)$. Each line is the score of one Gaussian times $1 - \bar\alpha_t$. The thick arrow
# is their average, and it is the score of the whole density: it differs from automatic differentiation only by the error in the title. At small $t$ few points count.
#
# The same for every point of the plane, with the mixture; where the notebook runs, a slider sets t:

# %%
def draw(panel, t):
    level = schedule.level(t)
    score = lambda x: dj.prediction.score(mixture.denoiser(x, level), level)
    exact = jax.grad(lambda x: mixture.log_prob(x, level).sum())(points)
    error = jnp.abs(score(points) - exact).max() / jnp.abs(exact).max()
    plots.density(panel, lambda x: mixture.log_prob(x, level), extent=2)
    plots.arrows(panel, score, extent=2)
    panel.set_xlabel(f"error {error:.0e}")


times = [20, 60, 100, 150, 250, 400, 600, 800]
plots.slider(draw, times, name="t", shown=[20, 100, 250, 600], width=2.7)

# %% [markdown]
# **What you should see.** The arrows, $-\epsilon_\theta / \sqrt{1-\bar\alpha_t}$ from the denoiser, point to where noisy points are more probable. The error is the largest
# difference from automatic differentiation of the exact density, relative to the longest arrow: rounding in float32. At $t = 600$ all arrows point
# to the middle, because the density is nearly one Gaussian.
#
# For images the score is an image too. Adding it to $x_t$, times $1 - \bar\alpha_t$, removes the noise (Tweedie's formula):
#
# $$\sqrt{\bar\alpha_t}\; E[x_0 \mid x_t] = x_t + (1 - \bar\alpha_t)\, \nabla_{x_t} \log q(x_t) .$$

# %%
# figure: 15_digits
times = [800, 500, 400, 300, 200, 100]
x_0 = jnp.repeat(digits[12:13], len(times), axis=0)
level = schedule.level(times)
x_t = dj.q_sample(x_0, jax.random.normal(jax.random.key(3), x_0.shape), level)
score = jax.grad(lambda x: remembered.log_prob(x, level).sum())(x_t)  # of the exact density
signal, sigma = (dj.expand_like(leaf, x_t) for leaf in (level.signal, level.sigma))
estimate = (x_t + sigma**2 * score) / signal
rows = ["x_t", "sigma score", "estimate of x_0"]
plots.strips([x_t, sigma * score, estimate], columns=[f"t = {t}" for t in times], rows=rows, size=1)

# %% [markdown]
# **What you should see.** A noisy digit, the score of the density of all noisy digits there (times $\sqrt{1-\bar\alpha_t}$, so that it is the negative of the predicted noise), and the
# estimate of $x_0$ that both give together. No network and no denoiser was used: the score is the gradient of the exact log density.

# %% [markdown]
# ### Exercises
#
# **1.** For a Gaussian, $x_0 \sim N(m, c)$, the score of $x_t$ is a line. Which one? Check it with automatic differentiation.
#
# <details><summary>Answer</summary>
#
# $x_t \sim N(\sqrt{\bar\alpha_t}\, m,\ \bar\alpha_t c + 1 - \bar\alpha_t)$, so the score is $-(x_t - \sqrt{\bar\alpha_t}\, m) / (\bar\alpha_t c + 1 - \bar\alpha_t)$.
#
# ```python
# level, x = schedule.level(300), jnp.linspace(-2, 2, 9)[:, None]
# gaussian = dj.analytic.Gaussian([0.5], [[0.2]])
# exact = jax.grad(lambda x: gaussian.log_prob(x, level).sum())(x)
# line = -(x - level.signal * 0.5) / (level.signal**2 * 0.2 + level.sigma**2)
# assert np.allclose(exact, line, rtol=1e-4, atol=1e-5)
# ```
#
# </details>
#
# **2.** A network predicts $\epsilon$ with an error of 0.01. How large is the error of its score at $t = 1$ and at $t = 1000$?
#
# <details><summary>Answer</summary>
#
# The error is divided by $\sqrt{1-\bar\alpha_t}$: 1 at $t = 1$, where $\sqrt{1-\bar\alpha_1} = 0.01$, and 0.01 at $t = 1000$. The score of clean images is hard to learn, and a
# prediction of the noise hides this.
#
# ```python
# eps, level = jnp.zeros((2, 2)), schedule.level([1, 1000])
# exact, wrong = (dj.prediction.score(dj.Prediction(eps, eps + e), level) for e in (0.0, 0.01))
# assert np.allclose(np.abs(wrong - exact)[:, 0], [1.0, 0.01], rtol=1e-3)
# ```
#
# </details>
#
# **3.** Follow the score of noisy points at $t = 100$ uphill, $x \leftarrow x + 0.01 \nabla \log q(x)$, from many starts and without noise. Do you draw samples so?
#
# <details><summary>Answer</summary>
#
# No: every start ends at a maximum of the density, so the spread within the three parts is lost. Langevin dynamics (step 4) adds the noise that keeps it.
#
# ```python
# level, x = schedule.level(100), points
# step = jax.jit(lambda x: x + 0.01 * dj.prediction.score(mixture.denoiser(x, level), level))
# for _ in range(1500):
#     x = step(x)
# assert len(np.unique(np.round(np.asarray(x), 1), axis=0)) <= 6 < 100 < len(np.unique(np.round(points, 1), axis=0))
# ```
#
# </details>

# %% [markdown]
# ## 8. The mean in terms of the noise
#
# $x_0$ is not known in generation, but the noise determines it: $x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\epsilon)/\sqrt{\bar\alpha_t}$.
# Inserted into $\tilde\mu$, this gives
#
# $$\mu = \frac{1}{\sqrt{1-\beta_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon\right).$$
#
# Noise, image, velocity and score are four forms of the same information; one file converts between them.
#
# [`diffusion/prediction.py`](../ddpm_jax/diffusion/prediction.py), [`diffusion/samplers/ancestral.py`](../ddpm_jax/diffusion/samplers/ancestral.py): `p_mean_log_var`;
# `test_prediction.py::test_the_reverse_mean_in_terms_of_the_noise`, `test_lecture_08.py::test_8_6_the_mean_in_terms_of_the_noise`

# %%
move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([150, 149]))
x_t = dj.q_sample(digits[:4], jax.random.normal(key, (4, 8, 8, 1)), move.now)
said = remembered.denoiser(x_t, move.now)
mean, _ = dj.samplers.p_mean_log_var(said, x_t, move, dj.Variance.SMALL)
by_noise = (x_t - move.beta / move.now.sigma * said.eps) / np.sqrt(1 - move.beta)
print(f"largest difference of the two means: {float(jnp.max(jnp.abs(mean - by_noise))):.1e}")
v, score = dj.prediction.velocity(said.x_0, said.eps, move.now), dj.prediction.score(said, move.now)
plots.strips(
    jnp.stack([x_t, said.x_0, said.eps / 3, v / 3, score / 6, mean], axis=1),
    columns=["x_t", "estimate of x_0", "eps / 3", "velocity / 3", "score / 6", "mean of x_s"],
    rows=[f"class {k}, t = 150" for k in labels[:4]], size=1.0)

# %% [markdown]
# **What you should see.** The two means are equal up to rounding. The score is the negative of the noise, in other units: it points
# from the noisy image towards the clean one. One step changes the image by little.
#
# In the scaled image $\bar x = x/\sqrt{\bar\alpha}$ the step has three meanings:
#
# $$\bar\mu - \bar x_t = -\frac{\beta}{\sqrt{\bar\alpha_t}\sqrt{1-\bar\alpha_t}}\,\epsilon = \gamma\,(x_0 - \bar x_t), \qquad
# \gamma = \frac{\beta}{1-\bar\alpha_t} \in (0, 1] .$$
#
# It is a direction from $x_t$ to $x_0$, it is the direction from $x_t$ to $x_s$, and it ends nearer to $x_0$, at the fraction
# $1 - \gamma$ of the distance.

# %%
move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([200, 150]))
x_0 = mixture.sample(jax.random.key(5), 14)
x_t = dj.q_sample(x_0, jax.random.normal(jax.random.key(6), x_0.shape), move.now)
said = mixture.denoiser(x_t, move.now)
mean, _ = dj.samplers.p_mean_log_var(said, x_t, move, dj.Variance.SMALL)
x_bar, mean_bar, x_hat = x_t / move.now.signal, mean / move.next.signal, said.x_0
before, after = (jnp.linalg.norm(x - x_hat, axis=1) for x in (x_bar, mean_bar))
left = after / before
print(f"1 - gamma = {1 - move.beta / move.now.sigma**2:.4f}; of the distances is left: "
      f"{float(left.min()):.4f} to {float(left.max()):.4f}")

# %%
one = jnp.argmax(jnp.where(before < 1.3, before, 0))[None]  # a point at some distance
shown = {"x_t, t = 200, to the estimate of x_0": (x_bar, x_hat),
         "x_t, t = 200, to x_s, s = 150": (x_bar, mean_bar),
         "nearer to the estimate of x_0": (x_bar[one], mean_bar[one])}

# %%
# figure: 08_directions
figure, axes = plots.panels(3, width=3.1, height=3.4)
for panel, (title, (start, end)) in zip(axes, shown.items()):
    plots.density(panel, mixture.log_prob, extent=2.5)
    plots.displacements(panel, start, end)
    panel.set(title=title)
radii = {"distance before": float(before[one][0]), "after": float(after[one][0])}
plots.circles(axes[2], x_hat[one][0], radii, name="estimate of x_0")
axes[2].legend(loc="upper left")
figure

# %% [markdown]
# **What you should see.** The data are blue; a dot is a noisy point $\bar x_t$ at $t = 200$, and $s = 150$. Left: the noise, reversed, points from it to the
# estimate of $x_0$, which lies in the data. Middle: the step to $\bar x_s$ has the same direction and is shorter by the factor
# $\gamma$. Right: for one point, the circles around its estimate of $x_0$ (the star) show its distance before and after
# the step.
#
# ### Exercises
#
# **1.** What is $\gamma$ for steps to $s = t - 1$ at $t$ = 1000, 300 and 1?
#
# <details><summary>Answer</summary>
#
# 0.02, 0.01 and 1: a step near $T$ covers a small part of the distance, and the last step all of it.
#
# ```python
# shares = schedule.beta / (1 - schedule.alpha_bar[1:])
# assert np.allclose(shares[[999, 299, 0]], [0.0200, 0.0100, 1.0], atol=5e-5)
# ```
#
# </details>
#
# **2.** A network makes the error 0.1 in every component of $\epsilon$. How large is the error of the mean at $t = 300$,
# $s = 299$?
#
# <details><summary>Answer</summary>
#
# $0.1\,\beta_t/(\sqrt{1-\beta_t}\sqrt{1-\bar\alpha_t})$, less than 0.001: one step forgives much, the sum of many steps does not.
#
# ```python
# move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([300, 299]))
# x, eps = jnp.ones((1, 2)), jnp.zeros((1, 2))
# read = lambda eps: dj.Target.EPS.prediction(eps, x, move.now)
# means = [dj.samplers.p_mean_log_var(read(e), x, move, dj.Variance.SMALL)[0] for e in (eps, eps + 0.1)]
# expected = 0.1 * move.beta / np.sqrt(1 - move.beta) / move.now.sigma
# assert np.allclose(means[0] - means[1], expected, atol=1e-6) and expected < 1e-3
# ```
#
# </details>
#
# **3.** Follow the mean alone, without the noise $\sigma_t z$, in 50 steps from 500 noises. How large is the spread of the ends?
#
# <details><summary>Answer</summary>
#
# A smaller one than the data: the noise of DDPM is not an ornament, it belongs to the distribution of each step.
#
# ```python
# moves, x = schedule.transitions(dj.timesteps.trailing(schedule, 50)), x_T
# for i in range(50):
#     one = jax.tree.map(lambda leaf: leaf[i], moves)
#     x = dj.samplers.p_mean_log_var(mixture.denoiser(x, one.now), x, one, dj.Variance.SMALL)[0]
# assert np.trace(np.cov(np.asarray(x).T)) < 0.8 * np.trace(mixture.covariance)
# ```
#
# </details>

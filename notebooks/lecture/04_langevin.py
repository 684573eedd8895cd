# %% [markdown]
# ## 4. A noising step is a Langevin step on a standard normal
#
# Langevin dynamics samples a density p from its score alone:
#
# $$x_{k+1} = x_k + \tfrac{\delta}{2} \nabla\log p(x_k) + \sqrt\delta\,\epsilon .$$
#
# For $p = \mathcal N(0, I)$ the score is $-x$, and $\sqrt{1-\beta} = 1 - \beta/2 + O(\beta^2)$: noising *is* Langevin dynamics towards pure noise.
# With the same noise and $\delta = \beta$ the two steps differ by
#
# $$\frac{\beta^2}{2 (1 + \sqrt{1-\beta})^2}\,x \approx \frac{\beta^2}{8}\,x .$$
#
# With the score of any other density, the same step leads to samples of that density.
#
# [`diffusion/samplers/langevin.py`](../ddpm_jax/diffusion/samplers/langevin.py); `test_lecture_04.py`,
# `test_langevin.py::test_a_noising_step_is_a_langevin_step_on_the_standard_normal`


# %%
def difference(beta):
    move = jax.tree.map(lambda leaf: leaf[0], dj.schedules.from_betas([beta]).transitions())
    noised = dj.q_step(points, dj.noise_like(keys(500), points), move)
    stepped = dj.samplers.langevin_step(points, -points, keys(500), delta=beta)
    return float(jnp.max(jnp.abs(stepped - noised)))


# %%
betas = np.array([0.02, 0.05, 0.1, 0.2, 0.5])
gaps = [difference(beta) for beta in betas]
for beta, gap in zip(betas, gaps):
    print(f"beta {beta:4}: largest difference {gap:.1e}, divided by beta^2: {gap / beta**2:.3f}")

# %% [markdown]
# Now the score of noisy data in place of $-x$: all points start in one corner.

# %%
level = schedule.level(100)


def one_step(i, x):
    score = dj.prediction.score(mixture.denoiser(x, level), level)
    step_keys = dj.image_keys(jax.random.fold_in(key, i), np.arange(len(x)))
    return dj.samplers.langevin_step(x, score, step_keys, delta=0.02)


walks = {steps: jax.lax.fori_loop(0, steps, one_step, 0.2 * x_T - 2) for steps in (0, 30, 1000)}

# %%
in_mode = mixture.log_prob_label(walks[1000], level).argmax(axis=1)
print("share of the points in each mode:", np.bincount(in_mode, minlength=3) / len(x_T))

# %%
# figure: 04_langevin
figure, (gap, *axes) = plots.panels(4, width=2.7, height=2.8)
plots.errors(gap, betas, gaps, order=2, label="largest difference")
gap.set(xlabel="beta", ylabel="largest difference", title="Langevin minus noising")
for panel, (steps, x) in zip(axes, walks.items()):
    plots.cloud(panel, x, lambda x: mixture.log_prob(x, level), extent=2.7)
    panel.set(title=f"{steps:,} Langevin steps")
figure

# %% [markdown]
# **What you should see.** Left: the difference falls on a line of order 2, so halving beta quarters it. Right: within 30 steps the
# points have reached the nearest modes, and after 1,000 steps all three have theirs, in the right proportion: the printed shares
# are near the weights 0.3, 0.4 and 0.3. Only the score was needed, not the density.
#
# ### Exercises
#
# **1.** How far apart are the two steps for the largest beta of the linear schedule, at x = 3?
#
# <details><summary>Answer</summary>
#
# ```python
# beta = schedule.beta[-1]
# gap = 3 * beta**2 / (2 * (1 + np.sqrt(1 - beta)) ** 2)
# assert np.isclose(gap, 3 * (1 - beta / 2 - np.sqrt(1 - beta)), rtol=1e-6)
# assert np.isclose(gap, 1.5e-4, rtol=0.02)
# ```
#
# </details>
#
# **2.** A noising step keeps the variance 1. Which variance does a Langevin step of size $\delta = 0.5$ on the standard normal keep?
#
# <details><summary>Answer</summary>
#
# The step maps the variance v to $(1 - \delta/2)^2 v + \delta$. Iterate, or solve for v: $v = 1 / (1 - \delta / 4)$.
#
# ```python
# v, delta = 1.0, 0.5
# for _ in range(100):
#     v = (1 - delta / 2) ** 2 * v + delta
# assert np.isclose(v, 1 / (1 - delta / 4))
# assert np.isclose(v, 8 / 7)
# ```
#
# </details>
#
# **3.** A chain with $\beta = 0.02$ starts with variance 4. After how many steps is it within 0.01 of 1?
#
# <details><summary>Answer</summary>
#
# The difference from 1 is multiplied by $1 - \beta$ in each step, so that $3 \cdot 0.98^k < 0.01$: after 283 steps.
#
# ```python
# v, steps = 4.0, 0
# while abs(v - 1) >= 0.01:
#     v, steps = (1 - 0.02) * v + 0.02, steps + 1
# assert steps == 283
# ```
#
# </details>

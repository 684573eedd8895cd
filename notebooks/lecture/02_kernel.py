# %% [markdown]
# ## 2. Noising steps compose
#
# One step scales the image down a little and adds a little noise. Independent Gaussian noises merge into one, so any number of steps equals
# one larger step:
#
# $$x_t = \sqrt{1-\beta_t}\,x_{t-1} + \sqrt{\beta_t}\,\epsilon \quad\Longrightarrow\quad x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon .$$
#
# [`diffusion/gaussian.py`](../ddpm_jax/diffusion/gaussian.py): `q_step`, `q_sample`; `test_lecture_02.py`,
# `test_gaussian.py::test_steps_compose_to_the_closed_form`

# %%
times, chosen = np.array([0, 50, 100, 200, 300, 500, 1000]), (0, 12, 5)
eps = jax.random.normal(key, (len(times), 8, 8, 1))
level = schedule.level(times)
plots.strips(
    [dj.q_sample(np.repeat(digits[[i]], len(times), 0), eps, level) for i in chosen],
    columns=[f"t = {t:,}" for t in times],
    rows=[f"class {labels[i]}" for i in chosen],
)

# %% [markdown]
# **What you should see.** Each row is one image with the same noise in the closed form: at t = 100 it can be read, at t = 300 it can be
# guessed, and at t = 1,000 nothing is left of it.
#
# *Two independent noises merge into one*, whose variance is the sum of theirs. The step uses this when it takes the noise that is already
# in the image and the new one as a single noise:
#
# $$\mathcal N(0, a^2) + \mathcal N(0, b^2) = \mathcal N(0, a^2 + b^2) .$$

# %%
a, b = 0.6, 0.8
one, two = jax.random.normal(jax.random.key(6), (2, 20_000))
figure, axes = plots.panels(3, width=3.2, height=2.2)
for panel, numbers, variance, title in [
    (axes[0], a * one, a**2, "a eps_1, variance 0.36"),
    (axes[1], b * two, b**2, "b eps_2, variance 0.64"),
    (axes[2], a * one + b * two, a**2 + b**2, "the sum, variance 1"),
]:
    gaussian = dj.analytic.Gaussian([0.0], [[variance]])
    plots.histogram(panel, numbers, gaussian.log_prob, extent=4)
    panel.set(title=title)
figure

# %% [markdown]
# **What you should see.** The histogram of the sum lies on the curve of *one* Gaussian, of variance 0.36 + 0.64.
#
# Now whole chains: each dot below has taken t single steps, each with its own noise. Blue is the density of the closed form.


# %%
def step_by_step(x, t):
    up = jax.tree.map(lambda leaf: leaf[::-1], schedule.transitions(np.arange(t, -1, -1)))

    def one_step(x, move):
        return dj.q_step(x, jax.random.normal(move[0], x.shape), move[1]), None

    return jax.lax.scan(one_step, x, (jax.random.split(jax.random.key(5), t), up))[0]


# %%
times = [0, 100, 300, 1000]
noisy = [step_by_step(points, t) if t else points for t in times]
exact = [lambda x, t=t: mixture.log_prob(x, schedule.level(t)) for t in times]
plots.clouds(noisy, exact, titles=[f"t = {t:,}" for t in times])

# %% [markdown]
# **What you should see.** At every t the dots lie as the closed form says. The marginal $q(x_t)$ is not a Gaussian, but a mixture of kernels,
# one around each scaled image of the data:
#
# $$q(x_t) = \int q(x_t \mid x_0)\,q(x_0)\,dx_0 = \frac1N \sum_i \mathcal N\left(x_t;\ \sqrt{\bar\alpha_t}\,x^{(i)},\ (1-\bar\alpha_t) I\right) .$$

# %%
# figure: 02_kernel
five = np.array([-1.5, -1.0, -0.1, 0.5, 1.3])
figure, axes = plots.panels(4, width=2.6, height=2.3)
for panel, t in zip(axes, [30, 120, 300, 1000]):
    level = schedule.level(t)
    plots.kernels(panel, five, signal=level.signal, sigma=level.sigma, extent=3)
    panel.set(title=f"t = {t:,}: signal {level.signal:.3f}", xlabel="x_t, in a scale of its own")
plots.legend_below(figure, axes[0])

# %% [markdown]
# **What you should see.** The data are five numbers. At t = 30 each has a narrow kernel of its own. The kernels widen, and their centres
# (triangles) move to 0. At t = 1,000 all five lie on each other, and their sum (black) is the standard normal density.
#
# ### Exercises
#
# **1.** From which t on is there more noise than signal, $\bar\alpha_t < 1/2$?
#
# <details><summary>Answer</summary>
#
# ```python
# first = int(np.argmax(schedule.alpha_bar < 0.5))
# assert first == 260
# ```
#
# </details>
#
# **2.** Noise a digit to t = 200 with `q_sample`, and from there to t = 500 in one `q_step`. Which single `q_sample` gives the same image, with
# which noise?
#
# <details><summary>Answer</summary>
#
# Merge the two noises: each has the scale that it has in the end, and their sum is divided by $\sqrt{1-\bar\alpha_{500}}$.
#
# ```python
# first, second = jax.random.normal(jax.random.key(8), (2, 1, 8, 8, 1))
# move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([500, 200]))
# two_steps = dj.q_step(dj.q_sample(digits[:1], first, move.next), second, move)
# scale = np.sqrt(1 - move.beta) * move.next.sigma
# merged = (scale * first + np.sqrt(move.beta) * second) / move.now.sigma
# assert np.allclose(two_steps, dj.q_sample(digits[:1], merged, move.now), atol=1e-5)
# ```
#
# </details>
#
# **3.** The covariance of `x_t` is $\bar\alpha_t \operatorname{Cov} x_0 + (1-\bar\alpha_t) I$. For which data does it not change?
#
# <details><summary>Answer</summary>
#
# For data of covariance I, and their mean only shrinks. (That is why one scales data to a variance of about 1.)
#
# ```python
# white = np.linalg.solve(np.linalg.cholesky(np.cov(points.T)), points.T).T
# eps = jax.random.normal(jax.random.key(9), white.shape)
# x_t = dj.q_sample(white, eps, schedule.level(300))
# assert np.allclose(np.cov(x_t.T), np.eye(2), atol=0.2)
# ```
#
# </details>

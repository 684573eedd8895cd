# %% [markdown]
# ## 7. One reverse step, if $x_0$ were known
#
# Which $x_s$ came before $x_t$? By Bayes' rule
#
# $$q(x_s \mid x_t) = \frac{q(x_t \mid x_s)\,q(x_s)}{q(x_t)} = \int q(x_s \mid x_t, x_0)\,q(x_0 \mid x_t)\,dx_0 ,$$
#
# and this is hard: $q(x_s)$ is the density of all noisy data, and the integral has a part for every image. If $x_0$ is given, only
# known Gaussians are left, and their product is a Gaussian, for any two times $s < t$:
#
# $$q(x_s \mid x_t, x_0) = \frac{q(x_t \mid x_s)\,q(x_s \mid x_0)}{q(x_t \mid x_0)} = \mathcal N(\tilde\mu, \tilde\beta I),$$
#
# $$\tilde\mu = \frac{\sqrt{\bar\alpha_s}\,\beta}{1-\bar\alpha_t}\,x_0 + \frac{\sqrt{1-\beta}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\,x_t, \qquad
# \tilde\beta = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\,\beta, \qquad \beta = 1 - \frac{\bar\alpha_t}{\bar\alpha_s} .$$
#
# The data of the left panel are the two numbers -0.5 and 0.8. The right panel takes one of them as given.
#
# [`diffusion/gaussian.py`](../ddpm_jax/diffusion/gaussian.py): `q_posterior`; `test_lecture_07.py::test_7_9_mu_tilde`

# %%
normal, numbers = jax.scipy.stats.norm.pdf, dj.analytic.FiniteData([[-0.5], [0.8]])
x_t, line = jnp.array([[0.1]]), np.linspace(-1.6, 1.8, 1001)
move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([300, 100]))
steps = [dj.q_posterior(jnp.array([x_0]), x_t, move) for x_0 in numbers.points]
prob = jnp.exp(numbers.log_prob_point(x_t, move.now))[0]
parts = [p * normal(line, mu[0], jnp.exp(v / 2)) for p, (mu, v) in zip(prob, steps)]
forward = normal(x_t[0], np.sqrt(1 - move.beta) * line, np.sqrt(move.beta))  # q(x_t | x_s)
log_ratio = numbers.log_prob(line[:, None], move.next) - numbers.log_prob(x_t, move.now)
prior = normal(line, move.next.signal * 0.8, move.next.sigma)  # q(x_s | x_0)
bayes = prior * forward / normal(x_t[0], move.now.signal * 0.8, move.now.sigma)

# %%
# figure: 07_posterior
figure, (without, given) = plots.panels(2, width=4.3)
without_x_0 = {"part of x_0 = -0.5": parts[0], "part of x_0 = 0.8": parts[1],
               "sum of the parts": sum(parts), "Bayes, with q(x_s)": forward * jnp.exp(log_ratio)}
plots.densities(without, line, without_x_0, title="q(x_s | x_t): a sum", xlabel="x_s")
given_x_0 = {"q(x_s | x_0)": prior, "q(x_t | x_s), of x_s": forward,
             "product over q(x_t | x_0)": bayes, "q_posterior": parts[1] / prob[1]}
plots.densities(given, line, given_x_0, title="q(x_s | x_t, x_0 = 0.8)", xlabel="x_s")
without.set(ylabel="density")
figure

# %% [markdown]
# **What you should see.** Left: the distribution of $x_s$ has two peaks, one for each number that $x_t = 0.1$ may have come from.
# The sum over the data equals Bayes' rule with the density $q(x_s)$; for images neither can be computed without the whole data
# set. Right: with $x_0$ given, the product of the two Gaussians lies exactly under `q_posterior`.
#
# How much does $\tilde\mu$ move, and how much noise does $\tilde\beta$ add?

# %%
for t, s in [(1000, 999), (300, 299), (300, 100), (2, 1), (1, 0)]:
    move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([t, s]))
    of_x_0 = move.next.signal * move.beta / move.now.sigma**2
    of_x_t = np.sqrt(1 - move.beta) * move.next.sigma**2 / move.now.sigma**2
    small = move.next.sigma**2 / move.now.sigma**2 * move.beta
    print(f"t = {t:4}, s = {s:3}: mu_tilde = {of_x_0:.4f} x_0 + {of_x_t:.4f} x_t, "
          f"beta_tilde = {small:.2e}, beta = {move.beta:.2e}")

# %%
t = np.arange(1, 1001)
moves = schedule.transitions()
of_x_0 = (moves.next.signal * moves.beta / moves.now.sigma**2)[::-1]
of_x_t = (np.sqrt(1 - moves.beta) * moves.next.sigma**2 / moves.now.sigma**2)[::-1]
figure, (weights, ratio) = plots.panels(2, width=4.3)
weights.plot(t, of_x_0, label="of x_0")
weights.plot(t, of_x_t, "--", label="of x_t")
ratio.plot(t, (moves.next.sigma**2 / moves.now.sigma**2)[::-1])
ratio.set(xlabel="t", xscale="log", title="beta_tilde / beta, s = t - 1")
weights.set(xlabel="t", xscale="log", title="weights in mu_tilde, s = t - 1")
weights.legend()
figure

# %% [markdown]
# **What you should see.** For most of the times $\tilde\mu$ is nearly $x_t$, with a small part of $x_0$, and $\tilde\beta$ is nearly
# $\beta$. Only in the last steps does $x_0$ have the larger weight; at $t = 1$ the step ends at $x_0$, without noise.
#
# ### Exercises
#
# **1.** What are $\tilde\mu$ and $\tilde\beta$ at $s = 0$? Check it with `q_posterior` at $t = 40$.
#
# <details><summary>Answer</summary>
#
# With $\bar\alpha_0 = 1$ the mean is $x_0$ and the variance is 0.
#
# ```python
# move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([40, 0]))
# mean, _ = dj.q_posterior(jnp.array([0.8]), jnp.array([-0.3]), move)
# assert abs(float(mean[0]) - 0.8) < 1e-5 and move.next.sigma == 0
# ```
#
# </details>
#
# **2.** At which times is $\tilde\beta_t$ less than half of $\beta_t$?
#
# <details><summary>Answer</summary>
#
# Only at $t = 1$ and $t = 2$: the two variances differ only in the last steps.
#
# ```python
# alpha_bar = schedule.alpha_bar
# small = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])  # beta_tilde / beta
# assert list(np.flatnonzero(small < 0.5) + 1) == [1, 2]
# ```
#
# </details>
#
# **3.** Draw $x_t$ from $q(x_t \mid x_0)$ and then $x_s$ from the posterior, for $x_0 = 0.8$, $t = 300$, $s = 100$. Which
# distribution does $x_s$ have?
#
# <details><summary>Answer</summary>
#
# That of $q(x_s \mid x_0)$: mean $\sqrt{\bar\alpha_s}\,x_0$ and variance $1 - \bar\alpha_s$.
#
# ```python
# move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([300, 100]))
# z_t, z_s = jax.random.normal(key, (2, 100_000))
# noisy = dj.q_sample(jnp.full(100_000, 0.8), z_t, move.now)
# mean, log_var = dj.q_posterior(jnp.full(100_000, 0.8), noisy, move)
# drawn = mean + jnp.exp(log_var / 2) * z_s
# assert abs(float(drawn.mean()) - move.next.signal * 0.8) < 0.01
# assert abs(float(drawn.var()) - move.next.sigma**2) < 0.01
# ```
#
# </details>

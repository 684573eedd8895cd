# %% [markdown]
# ## 19. Data fit against the KL
#
# $$\mathrm{ELBO} = \mathbb E_q[\log P(D \mid w)] - \mathrm{KL}(q(w), P(w)) .$$
#
# The first term is the data fit. Alone, and with a narrow $q$, it is maximum likelihood. The second is the price of the weights. For
# a Gaussian prior $N(0, \sigma_p^2)$ and $q = N(m, s^2)$ it is known in closed form:
#
# $$\mathrm{KL}(q(w), P(w)) = \frac{\lVert m\rVert^2}{2\sigma_p^2} + \sum_i \left(\frac{s_i^2/\sigma_p^2 - 1}{2} - \log\frac{s_i}{\sigma_p}\right) .$$
#
# In the mean this is $\lambda \lVert w\rVert^2$, weight decay. In a regression with noise of variance $\sigma^2$ the best mean minimises
#
# $$\lVert y - Xw\rVert^2 + \lambda \lVert w\rVert^2, \qquad \lambda = \frac{\sigma^2}{\sigma_p^2},$$
#
# ridge regression, and $\lambda$ need not be searched for. The example has 12 noisy points and 10 powers of $x$.
#
# [`diffusion/bayes.py`](../ddpm_jax/diffusion/bayes.py): `kl_nats`; `test_bayes.py::test_kl_is_weight_decay_and_the_cost_of_precision`;
# the derivation is in [`docs/notes.md`](../docs/notes.md#19-data-fit-against-the-kl)

# %%
bayes, rng = dj.bayes, np.random.default_rng(1)
x, noise, prior_std, line = np.linspace(-1, 1, 12), 0.3, 1.0, np.linspace(-1, 1, 201)
powers = lambda x: np.vander(x, 10, increasing=True)
truth = lambda x: np.sin(3 * x)
X, y = powers(x), truth(x) + noise * rng.normal(size=12)


def ridge(y, strength):
    """The minimiser of norm(y - X w)**2 + strength norm(w)**2: the normal equations."""
    return np.linalg.solve(X.T @ X + strength * np.eye(10), X.T @ y)


# %% [markdown]
# The mean of $q$ is now found in another way: by climbing the ELBO, without any normal equations. `kl_nats` returns the KL in its two parts.

# %%
def negative_elbo(q):
    spread = jnp.sum(jnp.exp(2 * q.log_std) * np.sum(X**2, axis=0))  # E_q of the squared error
    data_fit = -(jnp.sum((y - X @ q.mean) ** 2) + spread) / (2 * noise**2)
    return bayes.kl_nats(q, prior_std=prior_std).total - data_fit


q = bayes.initial_posterior(jnp.zeros(10), std=0.1)
step = noise**2 / np.linalg.norm(X.T @ X + noise**2 / prior_std**2 * np.eye(10), 2)
climb = lambda _, q: jax.tree.map(lambda a, b: a - step * b, q, jax.grad(negative_elbo)(q))
q = jax.jit(lambda q: jax.lax.fori_loop(0, 5000, climb, q))(q)

# %%
# figure: 19_ridge
figure, (price, path) = plots.panels(2, width=4.6, height=3.4)
means, q_of = np.linspace(-2, 2, 81), lambda m, s: bayes.initial_posterior(m, std=s)
kl = jax.vmap(lambda m, s: bayes.kl_nats(q_of(m, s), prior_std=prior_std).total, (0, None))
plots.kl_over_mean(price, means, {f"std of q = {s}": kl(means, s) for s in (1.0, 0.3, 0.1)})
price.set(title="the same parabola for q of every width", ylim=(0, 5.2))
strengths = np.geomspace(1e-4, 100, 81)
paths = np.stack([ridge(y, strength) for strength in strengths])
plots.ridge_path(path, strengths, paths, chosen=noise**2 / prior_std**2, means=q.mean)
path.set(title="10 weights of ridge regression")
figure

# %% [markdown]
# **What you should see.** Left: the KL of one weight as a function of its mean. A narrower $q$ costs more, but the parabola is the same: its
# slope, and so the pull on the mean, is that of weight decay. Right: the lines are the solutions of ridge regression for every $\lambda$.
# The dots, means of the $q$ that maximises the ELBO, lie on the lines at $\lambda = \sigma^2/\sigma_p^2 = 0.09$.
#
# ### What the KL stabilises
#
# The same experiment is repeated with new noise. In the direction of the $i$-th singular vector of $X$, with the singular value $d_i$, the
# weights vary over the data sets with the variance
#
# $$\mathrm{Var}(\hat w_i) = \sigma^2 \frac{d_i^2}{(d_i^2 + \lambda)^2} \;\le\; \frac{\sigma_p^2}{4},$$
#
# and without the KL, $\lambda = 0$, with $\sigma^2/d_i^2$, which has no limit.

# %%
many = truth(x) + noise * rng.normal(size=(20 if smoke else 500, 12))
_, d, directions = np.linalg.svd(X)
penalties = {"without the KL": 0.0, "with the KL": noise**2 / prior_std**2}
weights = {name: np.stack([ridge(y, p) for y in many]) for name, p in penalties.items()}
measured = {name: np.std(w @ directions.T, axis=0) for name, w in weights.items()}
exact = {name: noise * d / (d**2 + p) for name, p in penalties.items()}
for name in penalties:
    print(f"{name:14}: " + " ".join(f"{std:6.2f}" for std in measured[name]))

# %%
# figure: 19_stability
figure, (*pictures, deviation) = plots.panels(3, width=3.4, height=3.4)
for panel, name, colour in zip(pictures, penalties, (plots.COLOURS[1], plots.COLOURS[0])):
    plots.predictions(panel, line, weights[name][:60] @ powers(line).T, colour=colour)
    panel.plot(line, truth(line), "--", color=plots.COLOURS[6], label="truth")
    panel.set(title=f"{name}: 60 data sets", ylim=(-2.6, 2.6))
    panel.legend(loc="upper left")
plots.deviations(deviation, measured, exact)
deviation.set(title="dots: measured; lines: formula")
figure

# %% [markdown]
# **What you should see.** Left: maximum likelihood is right on average, but every data set gives another curve. Middle: with the KL the
# curves agree better with each other; their average is a little wrong, which is the price. Right: without the KL the standard deviation of
# the weights grows with every direction, to more than 100; with it none exceeds $\sigma_p/2 = 0.5$.
#
# ### Occam's razor
#
# The best fit of more features is never worse, and every feature costs more. At the exact posterior the ELBO *is* the log evidence. Without a test set
# it finds the cubic that generated these data:

# %%
import functools

x, noise = np.linspace(-1, 1, 40), 0.6
basis = np.linalg.qr(np.vander(x, 12, increasing=True))[0] * np.sqrt(40)  # orthogonal
y = basis[:, :4] @ [0.3, -0.8, 0.4, 0.5] + noise * np.random.default_rng(0).normal(size=40)


def log_evidence(k):
    covariance = noise**2 * np.eye(40) + prior_std**2 * basis[:, :k] @ basis[:, :k].T
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return -0.5 * (y @ np.linalg.solve(covariance, y) + log_det)


# %%
@functools.partial(jax.jit, static_argnums=0)
def best_elbo(k):
    precision = 40 / noise**2 + 1 / prior_std**2  # of the exact posterior, for every weight
    mean = jnp.asarray(basis[:, :k].T @ y / noise**2 / precision)
    fit = lambda w: jax.scipy.stats.norm.logpdf(y, basis[:, :k] @ w, noise).sum()
    exact = bayes.MeanField(mean, jnp.full(k, -0.5 * np.log(precision)))
    sides = [bayes.elbo_nats(fit, exact, eps * jnp.ones(k), prior_std=prior_std) for eps in (-1, 1)]
    return jax.tree.map(lambda a, b: (a + b) / 2, *sides)


# %%
# figure: 19_occam
sizes = np.arange(1, 13)
plots.razor(sizes, [best_elbo(int(k)) for k in sizes], [log_evidence(k) for k in sizes])

# %% [markdown]
# **What you should see.** Left: the ELBO (dots) is the log evidence (crosses) and is greatest at 4 features, the cubic. The data fit alone
# hardly changes beyond them; it gives no reason to stop. Right: what it lacks. Most of the KL is the price of knowing each weight precisely,
# and every further weight pays it, even if it explains only noise.
#
# ### Exercises
#
# **1.** Which $\lambda$ belongs to a prior of twice the width? Check that the gradient of the ELBO in the mean is zero at that solution.
#
# <details><summary>Answer</summary>
#
# A quarter of it: $\lambda = \sigma^2/\sigma_p^2$. A wider prior restrains the weights less.
#
# ```python
# x, noise = np.linspace(-1, 1, 12), 0.3
# y = truth(x)
# w, wide = ridge(y, 0.09 / 4), 2.0
# decay = jax.grad(lambda m: bayes.kl_nats(bayes.initial_posterior(m, std=0.1), prior_std=wide).mean)
# slope = X.T @ (y - X @ w) / noise**2 - np.asarray(decay(jnp.asarray(w)))
# assert np.abs(slope).max() < 1e-4
# ```
#
# </details>
#
# **2.** A hundred times as many data: does the prior still matter?
#
# <details><summary>Answer</summary>
#
# In each direction least squares is multiplied by $d^2/(d^2+\lambda)$, and $d^2$ grows with the number of data. In the seventh direction
# the twelve points keep 5% of it, a hundred times as many keep 84%; the last two directions are still left to the prior. The larger the
# data set, the smaller the share of the KL: training minimises the mean loss plus $\mathrm{KL}/N$.
#
# ```python
# kept, later = d**2 / (d**2 + 0.09), 100 * d**2 / (100 * d**2 + 0.09)
# assert round(kept[6], 2) == 0.05 and round(later[6], 2) == 0.84 and np.all(later[8:] < 0.05)
# ```
#
# </details>
#
# **3.** Where is the razor: in the size of the weights, or in their precision? Compare both parts of the KL at 12 features.
#
# <details><summary>Answer</summary>
#
# In their precision: about 40 times as much. Each weight is determined to $1/\sqrt{40/0.36 + 1} = 0.094$ of the width of its prior, and
# this costs $\log(1/0.094) - 1/2 = 1.87$ nats, for weights that are needed and for those that are not.
#
# ```python
# kl = best_elbo(12).kl
# assert abs(float(kl.variance) / 12 - 1.87) < 0.01 and 40 < kl.variance / kl.mean < 44
# ```
#
# </details>

# %% [markdown]
# ## 18. The ELBO over weights
#
# The weights $w$ of a classifier are uncertain, and a prediction should average over the weights that are plausible given the data $D$:
#
# $$P(y \mid x, D) = \int P(y \mid x, w)\, P(w \mid D)\, dw .$$
#
# The posterior $P(w \mid D)$ of a network cannot be computed. A Gaussian $q(w)$ approximates it, and
#
# $$\log P(D) = \mathrm{KL}(q(w), P(w \mid D)) + \mathrm{ELBO}, \qquad
# \mathrm{ELBO} = \mathbb E_q[\log P(D \mid w)] - \mathrm{KL}(q(w), P(w)) .$$
#
# The left side does not depend on $q$. So whatever the ELBO gains, the divergence from the posterior loses. In linear regression, where the
# evidence $P(D)$ is known, the ELBO must reach it.
#
# [`diffusion/bayes.py`](../ddpm_jax/diffusion/bayes.py): `elbo_nats`; `test_bayes.py::test_elbo_is_the_log_evidence_at_the_exact_posterior`;
# the derivation is in [`docs/notes.md`](../docs/notes.md#18-the-elbo-over-weights)

# %%
bayes, rng = dj.bayes, np.random.default_rng(0)
x, noise, prior_std = np.linspace(-1, 1, 40), 0.6, 1.0
features = np.linalg.qr(np.vander(x, 4, increasing=True))[0] * np.sqrt(40)  # orthogonal
y = features @ [0.3, -0.8, 0.4, 0.5] + noise * rng.normal(size=40)

covariance = noise**2 * np.eye(40) + prior_std**2 * features @ features.T  # of y, without w
log_evidence = -0.5 * (y @ np.linalg.solve(covariance, y))
log_evidence -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
print(f"log P(D) = {log_evidence:.3f} nats")


# %% [markdown]
# The data fit is an average over $q$. For a network one draws the weights, $w = \mu + \sigma\epsilon$; here the log likelihood is a quadratic
# in $w$ with orthogonal features, and the two points $\epsilon = \pm 1$ give its average exactly.

# %%
def log_likelihood(w):
    return jax.scipy.stats.norm.logpdf(y, features @ w, noise).sum()


def elbo(q):
    sides = [bayes.elbo_nats(log_likelihood, q, eps, prior_std=prior_std) for eps in (-ones, ones)]
    return (sides[0].total + sides[1].total) / 2


ones = jnp.ones(4)
start = bayes.initial_posterior(jnp.zeros(4), std=1.0)
print(f"ELBO at the start: {elbo(start):.1f} nats")

# %%
import optax


def step(carry, _):
    q, memory = carry
    loss, gradient = jax.value_and_grad(lambda q: -elbo(q))(q)
    updates, memory = optimizer.update(gradient, memory)
    return (optax.apply_updates(q, updates), memory), -loss


optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500))
(q, _), history = jax.lax.scan(step, (start, optimizer.init(start)), length=1500)

# %%
# figure: 18_evidence
print(f"log P(D) - ELBO at the end: {log_evidence - history[-1]:.5f} nats")
figure, (meeting, prediction) = plots.panels(2, width=4.6, height=3.4)
plots.evidence(meeting, history, log_evidence)
meeting.set(title="what the ELBO gains, the divergence loses")
weights = jax.vmap(lambda k: bayes.sample_weights(q, k))(jax.random.split(key, 40))
plots.predictions(prediction, x, weights @ features.T, name="average over q(w)")
prediction.plot(x, y, ".", color=plots.COLOURS[1], label="data")
prediction.set(title="predictions of 40 weights that q(w) allows")
prediction.legend()
figure

# %% [markdown]
# **What you should see.** Left: the black line, $\log P(D)$, is the same at every step of training. Blue (the ELBO) grows, orange (the
# divergence of $q$ from the posterior) shrinks by the same amount, and after about a thousand steps nothing is left of it. Right: no single
# curve is the answer; where the curves are close together, the data determine the prediction.
#
# ### Why this direction of the divergence?
#
# There are two. $\mathrm{KL}(q, p)$ is an average over $q$, from which anyone can draw; $\mathrm{KL}(p, q)$ is an average over the posterior
# $p$, which nobody has. The choice has a price, which one Gaussian $q$ and a density $p$ with two modes show. Every $q = N(m, s^2)$
# of a table is compared with $p$, by quadrature:
#
# $$\mathrm{KL}(q, p) = \int q \log\frac{q}{p}\, dw, \qquad \mathrm{KL}(p, q) = \int p \log\frac{p}{q}\, dw .$$

# %%
w = np.linspace(-8, 8, 161)[:, None, None]
m, s = np.linspace(-3, 3, 121)[:, None], np.geomspace(0.3, 3, 60)
log_q = jax.scipy.stats.norm.logpdf(w, m, s)  # [161, 121, 60], each q at each w


# %%
def divergences(p):  # KL(q, p) and KL(p, q) for every q of the table
    log_p, dw = p.log_prob(w[:, 0])[:, None, None], w[1, 0, 0] - w[0, 0, 0]
    gap = log_q - log_p
    return dw * jnp.sum(jnp.exp(log_q) * gap, axis=0), -dw * jnp.sum(jnp.exp(log_p) * gap, axis=0)


def best(kl):
    row, column = np.unravel_index(np.argmin(kl), kl.shape)
    return float(m[row, 0]), float(s[column])


# %%
# figure: 18_two_divergences
def draw(panel, distance):
    p = dj.analytic.GaussianMixture([0.6, 0.4], [[-distance / 2], [distance / 2]], [[[0.25]]] * 2)
    seeking, covering = divergences(p)
    names = {"least KL(q, p)": best(seeking), "least KL(p, q)": best(covering)}
    plots.fits(panel, p.log_prob, names, extent=4.5, top=1.1)


distances = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
plots.slider(draw, distances, name="distance", shown=distances[::2], width=2.6)

# %% [markdown]
# **What you should see.** While the two modes are near each other, both fits agree. As the modes move apart, the fit with the least
# $\mathrm{KL}(p, q)$ becomes wide and covers both, with its peak where $p$ has almost nothing: *mode covering*. The fit with the least
# $\mathrm{KL}(q, p)$, the one that the ELBO makes, keeps to the larger mode and ignores the other: *mode seeking*. So a
# posterior that is trained by the ELBO is rather too certain than too uncertain.
#
# ### Exercises
#
# **1.** The first $q$ of the training is $N(0, 1)$ for every weight. Compute its divergence from the exact posterior without the ELBO, and
# compare it with the orange part of the picture at step 1.
#
# <details><summary>Answer</summary>
#
# The features are orthogonal and each has the squared norm 40, so the exact posterior has the precision $40/\sigma^2 + 1/\sigma_p^2$ for
# every weight. The divergence is what the ELBO lacks.
#
# ```python
# precision = 40 / noise**2 + 1 / prior_std**2
# mean = features.T @ y / noise**2 / precision
# kl = dj.gaussian.normal_kl_nats(0.0, 0.0, mean, -np.log(precision)).sum()
# assert abs(kl - (log_evidence - elbo(start))) < 1e-3 * kl
# ```
#
# </details>
#
# **2.** Which Gaussian has the least $\mathrm{KL}(p, q)$? Name it without the table.
#
# <details><summary>Answer</summary>
#
# The one with the mean and the variance of $p$: $\mathrm{KL}(p, q)$ depends on $q$ only by $-\mathbb E_p[\log q(w)]$, which contains only
# these two moments of $p$.
#
# ```python
# p = dj.analytic.GaussianMixture([0.6, 0.4], [[-1.5], [1.5]], [[[0.25]]] * 2)
# mean, std = best(divergences(p)[1])
# assert abs(mean - p.mean.item()) < 0.05 and abs(std / p.covariance.item() ** 0.5 - 1) < 0.05
# ```
#
# </details>
#
# **3.** When the modes are far apart, how large is the least $\mathrm{KL}(q, p)$? Why does it not grow further?
#
# <details><summary>Answer</summary>
#
# $q$ equals the larger mode, and there $p = 0.6\, q$. So $\mathrm{KL}(q, p) = \mathbb E_q[\log (q / 0.6\, q)] = \log(1/0.6) = 0.51$ nats at
# any distance. To ignore a mode of probability 0.4 costs only half a nat.
#
# ```python
# p = dj.analytic.GaussianMixture([0.6, 0.4], [[-2.5], [2.5]], [[[0.25]]] * 2)
# assert abs(float(divergences(p)[0].min()) - np.log(1 / 0.6)) < 0.005
# ```
#
# </details>

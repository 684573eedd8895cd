# %% [markdown]
# ## 18. The ELBO over weights
#
# The weights of a classifier are uncertain, and a prediction should average over the weights that are plausible given the data:
# $P(y \mid x, D) = \int P(y \mid x, w)\,P(w \mid D)\,dw$. A Gaussian $q(w)$ approximates the posterior, and
#
# $$\log P(D) = \mathrm{ELBO} + \mathrm{KL}(q(w), P(w \mid D)) ,$$
#
# so maximising the ELBO brings $q$ to the posterior. In linear regression, where the evidence is known, the ELBO must reach it.
#
# [`diffusion/bayes.py`](../ddpm_jax/diffusion/bayes.py); `test_bayes.py::test_elbo_is_the_log_evidence_at_the_exact_posterior`

# %%
bayes, rng = dj.bayes, np.random.default_rng(0)
x, noise, prior_std = np.linspace(-1, 1, 40), 0.6, 1.0
features = np.linalg.qr(np.vander(x, 12, increasing=True))[0] * np.sqrt(len(x))  # orthogonal polynomials
y = features[:, :4] @ [0.3, -0.8, 0.4, 0.5] + noise * rng.normal(size=len(x))


def log_likelihood(k):
    return lambda w: jax.scipy.stats.norm.logpdf(y, features[:, :k] @ w, noise).sum()


def log_evidence(k):
    covariance = noise**2 * np.eye(len(x)) + prior_std**2 * features[:, :k] @ features[:, :k].T
    return -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1])


def elbo(q, k):
    # The average of a quadratic log likelihood with orthogonal features is exact with the two points +1 and -1.
    sides = [bayes.elbo_nats(log_likelihood(k), q, side * jnp.ones(k), prior_std=prior_std) for side in (1, -1)]
    return jax.tree.map(lambda a, b: (a + b) / 2, *sides)


def raise_elbo(carry, _):
    q, memory = carry
    loss, slope = jax.value_and_grad(lambda q: -elbo(q, 4).total)(q)
    updates, memory = optimizer.update(slope, memory)
    return (optax.apply_updates(q, updates), memory), -loss


q, optimizer = bayes.initial_posterior(jnp.zeros(4), std=1.0), optax.adam(optax.cosine_decay_schedule(0.05, 1500))
(q, _), history = jax.lax.scan(raise_elbo, (q, optimizer.init(q)), length=1500)

figure, (meeting, prediction) = plots.panels(2, width=4.4)
meeting.semilogy(log_evidence(4) - np.asarray(history, np.float64), label="log P(D) - ELBO = KL(q, posterior)")
meeting.set(xlabel="step", ylabel="nats", title=f"log P(D) = {log_evidence(4):.3f}, ELBO at the end {history[-1]:.3f}")
meeting.legend()
weights = jax.vmap(lambda k: bayes.sample_weights(q, k))(jax.random.split(key, 200))
lines = features[:, :4] @ np.asarray(weights).T
prediction.plot(x, lines[:, :30], color=plots.COLOURS[5], linewidth=0.5, alpha=0.5)
prediction.plot(x, lines.mean(axis=1), color=plots.COLOURS[0], label="average over q(w)")
prediction.plot(x, y, ".", color=plots.COLOURS[1], label="data")
prediction.set(xlabel="x", ylabel="y", title="thirty of the weights that the data allow")
prediction.legend()
figure

# %% [markdown]
# ## 13. The variance between its two extremes
#
# Which variance should a reverse step have? $\tilde\beta_t$ is exact for data at a single point, $\beta_t$ for standard normal data.
# Real data lie between them, so in Nichol and Dhariwal's model the network predicts the interpolation $v$:
#
# $$\Sigma_\theta = \exp\left(v \log\beta_t + (1 - v)\log\tilde\beta_t\right).$$
#
# For Gaussian data of variance $c$ the best $v$ is known. It makes the bound tighter, most of all for short chains.
#
# [`diffusion/samplers/ancestral.py`](../ddpm_jax/diffusion/samplers/ancestral.py), [`diffusion/losses.py`](../ddpm_jax/diffusion/losses.py): `l_hybrid`;
# `test_learned_variance.py::test_the_least_bound_has_the_true_posterior_variance`

# %%
moves = jax.tree.map(lambda leaf: leaf[:-1], schedule.transitions(dj.timesteps.trailing(schedule, 50)))
now, next = moves.now, moves.next


def best_v(c):
    var_x_0 = c * now.sigma**2 / (now.signal**2 * c + now.sigma**2)  # variance of x_0 given x_t
    true = np.exp(moves.log_var_small) + (next.signal * moves.beta / now.sigma**2) ** 2 * var_x_0
    return (np.log(true) - moves.log_var_small) / (moves.log_var_large - moves.log_var_small)


figure, (extremes, where, cost) = plots.panels(3)
extremes.semilogy(now.t, np.exp(moves.log_var_large), label="beta (large)")
extremes.semilogy(now.t, np.exp(moves.log_var_small), label="beta_tilde (small)")
extremes.set(xlabel="t", title="the two extremes, 50 moves")
extremes.legend()
for c in (1.0, 0.3, 0.03, 0.001):
    where.plot(now.t, best_v(c), label=f"c = {c:g}")
where.set(xlabel="t", title="v, best for data of variance c", ylim=(-0.05, 1.05))
where.legend(loc="center right")

data, v = dj.analytic.Gaussian([0.0, 0.0], 0.03 * np.eye(2)), best_v(0.03)


def with_v(x_t, level):
    share = jnp.interp(level.t, now.t[::-1], v[::-1])
    return data.denoiser(x_t, level)._replace(var_frac=jnp.full_like(x_t, share))


x_0 = data.sample(key, 500)
for variance in dj.Variance:
    terms = dj.likelihood.bound_terms(with_v, x_0, keys(500), indexed=(np.arange(49), moves), variance=variance)
    cost.bar(variance.value, float(terms["nats"].sum(axis=0).mean()))
cost.set(ylabel="nats", title="the bound's terms, c = 0.03")
cost.grid(visible=False, axis="x")
figure

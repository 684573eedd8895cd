# %% [markdown]
# ## 13. The variance between its two extremes
#
# Which variance should a reverse step have? The posterior's variance $\tilde\beta_t$ is only a part of it: given $x_t$ alone, $x_0$ is
# uncertain too.
#
# $$\sigma_t^{*2} = \tilde\beta_t + \left(\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\right)^2 \mathrm{Var}(x_0 \mid x_t).$$
#
# For data at a single point the second part is 0, for standard normal data the sum is $\beta_t$, and for Gaussian data of variance $c$ it is
#
# $$\sigma_t^{*2} = \beta_t\,\frac{\bar\alpha_{t-1}c + 1-\bar\alpha_{t-1}}{\bar\alpha_t c + 1-\bar\alpha_t}.$$
#
# In Nichol and Dhariwal's model the network predicts where between the extremes the variance lies:
#
# $$\Sigma_\theta = \exp\left(v \log\beta_t + (1 - v)\log\tilde\beta_t\right).$$
#
# [`diffusion/samplers/ancestral.py`](../ddpm_jax/diffusion/samplers/ancestral.py), [`diffusion/losses.py`](../ddpm_jax/diffusion/losses.py): `l_hybrid`;
# `test_lecture_13.py` asserts every line of the derivation

# %%
def steps_of(n, grid=dj.timesteps.trailing):  # without the last step, which draws no noise
    steps = schedule.transitions(grid(schedule, n))
    return jax.tree.map(lambda leaf: leaf[:-1], steps)


def true_var(c, steps):  # of x_s given x_t, for data of variance c
    var_t, var_s = (level.signal**2 * c + level.sigma**2 for level in (steps.now, steps.next))
    return steps.beta * var_s / var_t


# %%
def best_v(c, steps):
    low, high = steps.log_var_small, steps.log_var_large
    return (np.log(true_var(c, steps)) - low) / (high - low)


def of_beta(steps):  # beta_tilde / beta
    return np.exp(steps.log_var_small - steps.log_var_large)


moves, all_steps = steps_of(50), steps_of(1000)


# %%
# figure: 13_variance
figure, (ratio, where) = plots.panels(2, width=4.3, height=3.3)
ratio.plot(moves.now.t, of_beta(moves), "o--", label="50 steps", color=plots.COLOURS[1])
plots.lines(ratio, all_steps.now.t, {"1,000 steps": of_beta(all_steps)}, xlabel="t", ylim=(0, 1.05))
ratio.set(title="beta_tilde / beta")
curves = {f"c = {c:g}": best_v(c, moves) for c in (1.0, 0.3, 0.03, 0.001)}
plots.lines(where, moves.now.t, curves, xlabel="t", ylim=(-0.05, 1.05), legend=False)
where.legend(loc=(0.33, 0.6), ncols=2)
where.set(title="the best v for data of variance c, 50 steps")
figure

# %% [markdown]
# **What you should see.** At the left, the two extremes differ only where little noise is left: with many steps that is a small part of the
# chain, with 50 steps a larger one. At the right, $v = 1$ for standard normal data and $v$ near 0 for data that are almost a point;
# Gaussian data of a variance between 0 and 1 lie between, and $v$ depends on $t$.
#
# What a wrong variance costs is $\frac12(r - 1 - \log r)$ nats per step and dimension, with $r$ the true variance divided by the chosen
# one. The learned variance below is the exact one:

# %%
c, spread = 0.03, dj.analytic.Gaussian([0.0, 0.0], 0.03 * np.eye(2))


def with_v(x_t, level):  # the exact network with a second output
    v = jnp.interp(level.t, moves.now.t[::-1], best_v(c, moves)[::-1])
    return spread.denoiser(x_t, level)._replace(var_frac=jnp.full_like(x_t, v))


def nats(variance):  # the bound's terms L_(t-1), summed over t and averaged over the data
    x_0, indexed = spread.sample(key, 500), (np.arange(len(moves.beta)), moves)
    terms = dj.likelihood.bound_terms(with_v, x_0, keys(500), indexed=indexed, variance=variance)
    return float(terms["nats"].sum(axis=0).mean())


# %%
def lost(n, chosen):  # nats per dimension, summed over n steps that are even in log-SNR
    steps = steps_of(n, dj.timesteps.log_snr)
    r = true_var(c, steps) / np.exp(getattr(steps, chosen))
    return 0.5 * np.sum(r - 1 - np.log(r))


numbers = [10, 30, 100, 300, 1000]
kinds = {"beta_tilde (small)": "log_var_small", "beta (large)": "log_var_large"}
curves = {name: [lost(n, kind) for n in numbers] for name, kind in kinds.items()}

# %%
# figure: 13_cost
figure, (cost, by_steps) = plots.panels(2, width=4.3, height=3.3)
names = [*kinds, "learned"]
bounds = {name: nats(variance) for name, variance in zip(names, dj.Variance)}
plots.bars(cost, bounds, ylabel="nats", title="the bound without L_T and L_0, 50 steps")
plots.lines(by_steps, numbers, curves, xlabel="number of steps", xscale="log", yscale="log")
by_steps.set(title="what a fixed variance costs", ylabel="nats per dimension")
figure

# %% [markdown]
# **What you should see.** The exact variance gives the least bound. The difference to the fixed variances grows as the chain becomes shorter,
# which is why a learned variance matters most when images are drawn in few steps.
#
# ### Exercises
#
# **1.** Show that $\tilde\beta_t$ is exact for data at a single point, by letting $c$ go to 0, and $\beta_t$ for $c = 1$.
#
# <details><summary>Answer</summary>
#
# ```python
# assert np.allclose(true_var(0.0, moves), np.exp(moves.log_var_small))
# assert np.allclose(true_var(1.0, moves), moves.beta)
# ```
#
# </details>
#
# **2.** Can the true variance be larger than $\beta_t$? Try data of variance 4.
#
# <details><summary>Answer</summary>
#
# Yes: data that are wider than the noise *shrink* while they are noised. Images are scaled to $[-1, 1]$, so that their variance is below 1.
#
# ```python
# assert np.all(true_var(4.0, moves) > moves.beta)
# assert np.all(best_v(4.0, moves) > 1)
# ```
#
# </details>
#
# **3.** Measure the variance of $x_{t-1}$ given $x_t$ for Gaussian data by drawing pairs, at the middle of the 50 steps, and compare it with
# the formula.
#
# <details><summary>Answer</summary>
#
# ```python
# step = jax.tree.map(lambda leaf: jnp.float32(leaf[25]), moves)
# x_0, (first, second) = spread.sample(key, 200_000)[:, :1], jax.random.normal(jax.random.key(3), (2, 200_000, 1))
# x_s = dj.q_sample(x_0, first, step.next)
# x_t = dj.q_step(x_s, second, step)
# rest = x_s - x_t * jnp.mean(x_s * x_t) / jnp.mean(x_t**2)  # what the best straight line leaves
# assert abs(float(jnp.var(rest)) / true_var(c, moves)[25] - 1) < 0.02
# ```
#
# </details>

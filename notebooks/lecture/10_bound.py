# %% [markdown]
# ## 10. The bound
#
# $-\log p_\theta(x_0)$ is an integral over all chains that end at $x_0$, which nobody can compute. Adding a divergence that is never
# negative gives a bound that can be computed, one term for each step:
#
# $$-\log p_\theta(x_0) \;\le\; \underbrace{\mathrm{KL}(q(x_T \mid x_0)\,\|\,p(x_T))}_{L_T} + \sum_{t=2}^{T}
# \underbrace{\mathrm{KL}(q(x_{t-1} \mid x_t, x_0)\,\|\,p_\theta(x_{t-1} \mid x_t))}_{L_{t-1}} + L_0 .$$
#
# For numbers with the distribution $\mathcal N(0, c)$ everything has a closed form. The model below is the chain of 50 steps of the exact
# network for *another* variance $c'$: how large are its bound and its true $-\log p_\theta(x_0)$, averaged over the data?
#
# [`diffusion/likelihood.py`](../ddpm_jax/diffusion/likelihood.py); `test_lecture_10.py` asserts every line of the derivation

# %%
c, steps = 0.09, schedule.transitions(dj.timesteps.log_snr(schedule, 50))
now, next, var = steps.now, steps.next, steps.beta


def noisy(level, c):  # the variance of x_t, for data N(0, c)
    return level.signal**2 * c + level.sigma**2


def slope(c):  # the mean of x_s given x_t is slope * x_t
    return np.sqrt(1 - steps.beta) * noisy(next, c) / noisy(now, c)


# %%
entropy = 0.5 * np.log(2 * np.pi * np.e * c)


def bound(model):  # the entropy, and the divergence of every true reverse step from the model's
    true = steps.beta * noisy(next, c) / noisy(now, c)
    second = (true + (slope(c) - slope(model)) ** 2 * noisy(now, c)) / var
    prior = 0.5 * (noisy(now, c)[0] - 1 - np.log(noisy(now, c)[0]))
    return entropy + prior + 0.5 * np.sum(second - 1 - np.log(true / var))


# %%
def cost(model):  # -log p(x_0) averaged over the data: the chain is followed from N(0, 1) downwards
    drawn = 1.0
    for a, added in zip(slope(model), var, strict=True):
        drawn = a**2 * drawn + added
    return 0.5 * (np.log(2 * np.pi * drawn) + c / drawn)


# %%
def gap(n, kind):  # what the variances of n steps but the last cost with the exact network
    some = schedule.transitions(dj.timesteps.log_snr(schedule, n))
    true = (some.beta * noisy(some.next, c) / noisy(some.now, c))[:-1]
    ratio = true / np.exp(getattr(some, kind))[:-1]
    return 0.5 * np.sum(ratio - 1 - np.log(ratio))


models, numbers = np.geomspace(0.03, 0.27, 61), [10, 30, 100, 300, 1000]
costs = {"bound": [bound(m) for m in models], "-log p(x_0)": [cost(m) for m in models]}
kinds = {"beta_tilde (small)": "log_var_small", "beta (large)": "log_var_large"}

# %%
# figure: 10_gap
figure, (which, long) = plots.panels(2, width=4.3, height=3.3)
curves = {**costs, "entropy of the data": np.full(61, entropy)}
plots.lines(which, models, curves, xlabel="c' of the model", ylabel="nats")
which.set(title="data of c = 0.09, 50 steps")
gaps = {name: [gap(n, kind) for n in numbers] for name, kind in kinds.items()}
plots.lines(long, numbers, gaps, xlabel="number of steps", xscale="log", yscale="log")
long.set(ylabel="nats", title="cost of all variances but the last, c' = c")
figure

# %% [markdown]
# **What you should see.** At the left, the bound lies above $-\log p_\theta(x_0)$ everywhere, and both are least near $c' = c$: whatever
# lowers the bound moves $p_\theta$ towards $q$. The distance between the two curves is the divergence that was added. At the right, the
# network is exact, and the curves are what the variances of all steps but the last cost ($\tilde\beta$ is 0 in the last one); this falls as
# the steps become shorter.
#
# One check for images needs no training either: to identify one of 1,297 equally likely digits takes $\log_2 1297 = 10.34$ bits, and the
# exact network wastes none in the limit of many steps. So all terms down to $t = 2$ must sum to a little more than that. $L_0$ comes on top: it is the cost of the
# exact grey values, because the last Gaussian of the chain also covers neighbouring values.

# %%
moves = schedule.transitions(dj.timesteps.trailing(schedule, 100 if smoke else 1000))
x_0, indexed = jnp.asarray(digits[:16]), (np.arange(len(moves.beta)), moves)
terms = jax.jit(
    lambda x_0: dj.likelihood.bound_terms(
        remembered.denoiser, x_0, keys(16), indexed=indexed, variance=dj.Variance.SMALL
    )
)(x_0)
bits = np.asarray(terms["nats"]).mean(axis=1) / np.log(2)  # of L_{T-1}, ..., L_0
last = float(dj.likelihood.prior_term_nats(x_0, schedule.level(1000)).mean()) / np.log(2)
total = last + np.cumsum(bits[:-1])
print(f"L_T {last:.4f} bits, L_T + ... + L_1 {total[-1]:.2f}, L_0 {bits[-1]:.1f}")

# %%
# figure: 10_terms
figure, (each, running) = plots.panels(2, width=4.3, height=3.3)
times = moves.now.t[:-1]
plots.lines(each, times, {"L_(t-1)": bits[:-1]}, xlabel="t", ylabel="bits per image")
each.set(title="each term but L_T and L_0", xlim=(0, 1000))
sums = {"L_T + ... + L_(t-1)": total, "log2 1297": np.full(len(times), np.log2(1297))}
plots.lines(running, times, sums, xlabel="t", ylabel="bits per image")
running.set(title="their sum from T down to t", xlim=(0, 1000), ylim=(0, 11.8))
figure

# %% [markdown]
# **What you should see.** More than four fifths of the bits are paid between $t = 600$ and $t = 200$, where it is decided which digit the image becomes;
# $L_T$ is about 0. The sum ends just above the dashed line. The jitter of the terms comes from the noise, which was drawn once for each of
# 16 digits and each $t$.
#
# ### Exercises
#
# **1.** $L_T$ has no parameters. How large is it for one digit at the end of the linear schedule, and how large if the noising stopped at
# $t = 500$?
#
# <details><summary>Answer</summary>
#
# ```python
# at_end, at_500 = (dj.likelihood.prior_term_nats(jnp.asarray(digits[:1]), schedule.level(t))[0] for t in (1000, 500))
# assert at_end < 0.01 < 1 < at_500
# ```
#
# </details>
#
# **2.** Use the divergence the other way round: *subtract* it. Where would training lead that makes the result small?
#
# <details><summary>Answer</summary>
#
# The result is a lower bound of $-\log p_\theta(x_0)$. It is least at $c' = 0.07$, below the entropy (0.12 against 0.21 nats): minimising it
# leads away from the data.
#
# ```python
# low = [2 * cost(m) - bound(m) for m in models]
# assert models[np.argmin(low)] < 0.8 * c and min(low) < entropy - 0.05
# ```
#
# </details>
#
# **3.** With how many steps of variance $\beta$ and the exact network do the variances of all steps but the last cost at most 0.01 nats? How
# does this cost fall when the number of steps is doubled?
#
# <details><summary>Answer</summary>
#
# ```python
# enough = 2
# while gap(enough, "log_var_large") > 0.01:
#     enough += 1
# assert 20 < enough < 1000
# assert 1.5 < gap(200, "log_var_large") / gap(400, "log_var_large") < 2.5
# ```
#
# </details>

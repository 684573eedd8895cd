# %% [markdown]
# ## 10. The bound
#
# $$-\log p(x_0) \;\le\; \underbrace{\mathrm{KL}(q(x_T \mid x_0), p(x_T))}_{L_T} + \sum_{t=2}^{T} \underbrace{\mathrm{KL}(q(x_{t-1} \mid x_t, x_0),
# p(x_{t-1} \mid x_t))}_{L_{t-1}} + L_0 .$$
#
# One check needs no training: to identify one of 1,297 equally likely digits takes $\log_2 1297 = 10.34$ bits, and the ideal network wastes
# none. So all terms down to $t = 2$ must sum to a little more than that: only a little, because the chain has a thousand steps. $L_0$ is
# added to this sum. It is the cost of the exact grey values, because the last Gaussian of the chain also covers the neighbouring values.
#
# [`diffusion/likelihood.py`](../ddpm_jax/diffusion/likelihood.py); `test_likelihood.py::test_the_bound_is_above_the_exact_likelihood_and_within_one_percent_of_it`

# %%
moves = schedule.transitions(dj.timesteps.trailing(schedule, 100 if smoke else 1000))
x_0, indexed = jnp.asarray(digits[:32]), (np.arange(len(moves.beta)), moves)
terms = jax.jit(
    lambda x_0: dj.likelihood.bound_terms(
        remembered.denoiser, x_0, keys(32), indexed=indexed, variance=dj.Variance.SMALL
    )
)(x_0)
bits = np.asarray(terms["nats"]).mean(axis=1) / np.log(2)  # of L_{T-1}, ..., L_0
last = float(dj.likelihood.prior_term_nats(x_0, schedule.level(1000)).mean()) / np.log(2)
print(
    f"L_T {last:.4f} + sum of L_(t-1) {bits[:-1].sum():.2f} = {last + bits[:-1].sum():.2f} bits; log2 1297 = {np.log2(1297):.2f}; L_0 {bits[-1]:.1f}"
)
figure, (each, total) = plots.panels(2, width=4.2)
times = moves.now.t[:-1]
each.plot(times, bits[:-1])
each.set(xlabel="t", ylabel="bits an image", title="each term but L_0")
total.plot(times, last + np.cumsum(bits[:-1]), label="L_T + ... + L_(t-1)")
total.axhline(np.log2(1297), color=plots.COLOURS[1], linestyle="--", label="log2 1297")
total.set(xlabel="t", ylabel="bits an image", title="their sum from T down to t")
total.legend()
figure

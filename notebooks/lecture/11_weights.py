# %% [markdown]
# ## 11. Each term is a weighted error of the noise; the weight is dropped
#
# The divergence of two Gaussians in $D$ dimensions is
#
# $$\mathrm{KL} = \frac12\left(\log\frac{\det C_2}{\det C_1} - D + \mathrm{tr}(C_2^{-1} C_1) + (m_1-m_2)^\top C_2^{-1} (m_1-m_2)\right).$$
#
# The trace is the expectation of a quadratic form. Here $p_1$ is one component of
# the mixture and $p_2$ the Gaussian with the mean and the covariance of the whole mixture; the formula meets the average of
# $\log p_1/p_2$ over samples of $p_1$.
#
# [`diffusion/losses.py`](../ddpm_jax/diffusion/losses.py), `normal_kl_nats` in [`diffusion/gaussian.py`](../ddpm_jax/diffusion/gaussian.py);
# `test_lecture_11.py` asserts every line of the derivation

# %%
p_1, p_2 = mixture.components[0], dj.analytic.Gaussian(mixture.mean, mixture.covariance)
inverse, difference = np.linalg.inv(p_2.covariance), p_1.mean - p_2.mean
parts = {
    "log det": np.log(np.linalg.det(p_2.covariance) / np.linalg.det(p_1.covariance)),
    "trace - D": np.trace(inverse @ p_1.covariance) - 2,
    "means": difference @ inverse @ difference,
}
x = p_1.sample(key, 100_000)
average = float(jnp.mean(p_1.log_prob(x) - p_2.log_prob(x)))
print(" + ".join(f"{value / 2:.3f} ({name})" for name, value in parts.items()))
print(f"= {sum(parts.values()) / 2:.3f} nats; the average over samples is {average:.3f}")

# %% [markdown]
# **What you should see.** The formula and the average over samples agree to two decimals. The three parts can have either sign; only their
# sum is never negative.
#
# In the bound both covariances are multiples of the identity and fixed, so that only the means are left, and by step 8 their distance is a
# distance of the noises:
#
# $$L_{t-1} = w_t\,\lVert \epsilon - \epsilon_\theta\rVert^2, \qquad w_t = \frac{\beta_t^2}{2 \tilde\beta_t \alpha_t(1-\bar\alpha_t)}
# = \frac12\left(\frac{\mathrm{SNR}(t-1)}{\mathrm{SNR}(t)} - 1\right).$$
#
# Ho et al. set the weight to 1: *L_simple*. Other losses, also those of a network that predicts $x_0$ or $v$, are other weights of the same
# error.

# %%
moves = jax.tree.map(lambda leaf: leaf[:-1], schedule.transitions())  # t = 1000, ..., 2
beta, beta_tilde = moves.beta, np.exp(moves.log_var_small)
weight = beta**2 / (2 * beta_tilde * (1 - beta) * moves.now.sigma**2)
for t in (2, 10, 50, 100, 200, 500, 1000):
    print(f"t = {t:>4}: weight {weight[1000 - t]:.4f}")

# %%
some = jax.tree.map(lambda leaf: jnp.asarray(leaf[::2][:500], jnp.float32), moves)
x_0, variance = points[: len(some.beta)], dj.Variance.SMALL
term = dj.likelihood.bound_term(
    mixture.denoiser, x_0, keys(len(x_0)), transition=some, variance=variance
)
weighted = weight[::2][:500] * 2 * term["eps_mse"]  # the norm is a sum over two components
print(f"largest difference {np.max(np.abs(term['nats'] - weighted)):.1e} nats")

# %%
# figure: 11_weights
losses, log_snr = dj.losses, moves.now.log_snr
figure, (weights, check) = plots.panels(2, width=4.3, height=3.4)
curves = {"bound": weight, "L_simple": losses.eps_weight(log_snr), "v": losses.v_weight(log_snr)}
curves |= {"min-SNR": losses.min_snr_weight()(log_snr), "P2": losses.p2_weight()(log_snr)}
plots.lines(weights, moves.now.t, curves, xlabel="t", xscale="log")
weights.set(title="weight of the noise error", yscale="log", ylim=(1e-5, 1e6))
check.loglog(weighted, term["nats"], ".", markersize=3)
check.axline((1e-4, 1e-4), (1, 1), color="grey", linewidth=0.8, label="equal")
check.set(xlabel="weight x squared error of the noise", ylabel="nats", title="the terms L_(t-1)")
check.legend()
figure

# %% [markdown]
# **What you should see.** The bound's weight falls from 0.6 at $t = 2$ to 0.005 at $t = 350$ and rises to 0.01 at $t = 1000$; it asks most for the last invisible
# detail. The weight of *L_simple* is the same everywhere. At the right, every term of the bound is its weighted error: the points lie on
# the diagonal.
#
# A network of unlimited capacity would learn the same from every weight, since the best answer at each $t$ does not depend on it. A real
# network shares its parameters between all $t$, and the weight says where it should be good. `benchmarks/dropped_weight.py` trains both
# losses on the digits; [`docs/benchmarks.md`](../docs/benchmarks.md) has the table.
#
# ### Exercises
#
# **1.** Show with numbers that the two forms of $w_t$ are equal.
#
# <details><summary>Answer</summary>
#
# ```python
# snr = schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])  # t = 1, ..., 1000
# assert np.allclose(weight[::-1], 0.5 * (snr[:-1] / snr[1:] - 1), rtol=1e-9)
# ```
#
# </details>
#
# **2.** A network that predicts $x_0$ is trained with the plain squared error of $x_0$. Which weight of the noise error is that, and how large
# is it at $t = 1000$ and at $t = 2$?
#
# <details><summary>Answer</summary>
#
# From $x_0 - \hat x_0 = (\sigma/\mathrm{signal})(\hat\epsilon - \epsilon)$ the weight is $1/\mathrm{SNR}$.
#
# ```python
# of_x_0 = dj.losses.x_0_weight(moves.now.log_snr)
# assert of_x_0[0] > 1e4 and of_x_0[-1] < 1e-3
# ```
#
# </details>
#
# **3.** Is the divergence symmetric? Compute it for the two Gaussians above in the other direction.
#
# <details><summary>Answer</summary>
#
# No. The divergence from $p_1$ to $p_2$ is an average over $p_1$, and it is large where $p_2$ has no mass.
#
# ```python
# def kl(p, q):
#     other, gap = np.linalg.inv(q.covariance), p.mean - q.mean
#     log_dets = np.log(np.linalg.det(q.covariance) / np.linalg.det(p.covariance))
#     return 0.5 * (log_dets - 2 + np.trace(other @ p.covariance) + gap @ other @ gap)
#
#
# assert abs(kl(p_1, p_2) - sum(parts.values()) / 2) < 1e-9
# assert kl(p_2, p_1) > 2 * kl(p_1, p_2)
# ```
#
# </details>

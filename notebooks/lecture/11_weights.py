# %% [markdown]
# ## 11. Each term is a weighted error of the noise; the weight is dropped
#
# The KL divergence of two Gaussians of equal variance is a squared distance of their means, and by step 8 this is a distance of the noises:
#
# $$L_{t-1} = w_t\,\lVert \epsilon - \epsilon_\theta\rVert^2, \qquad w_t = \frac{\beta_t^2}{2 \tilde\beta_t (1-\beta_t)(1-\bar\alpha_t)} .$$
#
# $w_t$ is a hundred times larger where there is almost no noise, but the details there are not visible. Ho et al. set it to 1: *L_simple*.
# Every other choice, also a network that predicts $x_0$ or $v$, is another weight of the same error.
#
# [`diffusion/losses.py`](../ddpm_jax/diffusion/losses.py); `test_losses.py::test_weights_make_the_noise_error_that_of_any_target`

# %%
moves = jax.tree.map(lambda leaf: leaf[:-1], schedule.transitions())
weight = moves.beta**2 / (2 * np.exp(moves.log_var_small) * (1 - moves.beta) * moves.now.sigma**2)
figure, (weights, check) = plots.panels(2, width=4.4)
weights.loglog(moves.now.t, weight, label="the bound's", color=plots.COLOURS[6])
log_snr = moves.now.log_snr
for name, w in {
    "L_simple": dj.losses.eps_weight,
    "of v": dj.losses.v_weight,
    "min-SNR": dj.losses.min_snr_weight(),
    "P2": dj.losses.p2_weight(),
}.items():
    weights.loglog(moves.now.t, w(log_snr), label=name)
weights.set(xlabel="t", ylabel="weight of the noise error", ylim=(1e-7, 1e4))
weights.legend(loc="lower right", fontsize=8)
some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:: 2 if smoke else 1][:500], jnp.float32), moves)
x_0 = points[: len(some.beta)]
term = dj.likelihood.bound_term(mixture.denoiser, x_0, keys(len(x_0)), transition=some, variance=dj.Variance.SMALL)
check.loglog(weight[:: 2 if smoke else 1][:500] * 2 * term["eps_mse"], term["nats"], ".", markersize=3)
check.axline((1e-3, 1e-3), (1, 1), color="grey", linewidth=0.8)
check.set(xlabel="weight x squared error of the noise", ylabel="the bound's term, nats")
figure

# %% [markdown]
# ## 3. The betas are chosen, and they grow
#
# $\beta_1 < \dots < \beta_T$: the steps are small while the image still has detail, and larger when little is left. Only
# $\bar\alpha_t = \prod_s (1-\beta_s)$ matters in the end, or the log signal-to-noise ratio $\log \bar\alpha_t/(1-\bar\alpha_t)$.
#
# [`diffusion/schedules.py`](../ddpm_jax/diffusion/schedules.py); `test_schedules.py::test_betas_grow`, `test_linear_ends_in_the_papers_noise`

# %%
figure, (beta, alpha_bar, log_snr) = plots.panels(3)
for name in ("linear", "quadratic", "sigmoid", "cosine"):
    other = getattr(dj.schedules, name)(1000)
    beta.semilogy(np.arange(1, 1001), other.beta, label=name)
    alpha_bar.plot(other.alpha_bar, label=name)
    log_snr.plot(np.arange(1, 1001), other.log_snr, label=name)
beta.set(xlabel="t", title="beta: noise added by a step")
alpha_bar.set(xlabel="t", title="alpha_bar: signal left")
log_snr.set(xlabel="t", title="log signal-to-noise ratio")
beta.legend()
figure

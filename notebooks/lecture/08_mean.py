# %% [markdown]
# ## 8. The mean in terms of the noise
#
# $x_0$ is not known, but $x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\epsilon)/\sqrt{\bar\alpha_t}$: the noise determines the image. Inserted into
# $\tilde\mu$, this gives
#
# $$\mu = \frac{1}{\sqrt{1-\beta_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon\right).$$
#
# Noise, image, velocity and score are four forms of the same information; one file converts between them.
#
# [`diffusion/prediction.py`](../ddpm_jax/diffusion/prediction.py), [`diffusion/samplers/ancestral.py`](../ddpm_jax/diffusion/samplers/ancestral.py): `p_mean_log_var`;
# `test_prediction.py::test_the_reverse_mean_in_terms_of_the_noise`

# %%
t = 150
move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([t, t - 1]))
x_t = dj.q_sample(digits[:4], jax.random.normal(key, (4, 8, 8, 1)), move.now)
said = remembered.denoiser(x_t, move.now)
mean, _ = dj.samplers.p_mean_log_var(said, x_t, move, dj.Variance.SMALL)
by_noise = (x_t - move.beta / move.now.sigma * said.eps) / np.sqrt(1 - move.beta)
print(f"largest difference of the two means: {float(jnp.max(jnp.abs(mean - by_noise))):.1e}")
v, slope = dj.prediction.velocity(said.x_0, said.eps, move.now), dj.prediction.score(said, move.now)
plots.strips(
    jnp.stack([x_t, said.eps / 3, said.x_0, v / 3, slope / 6, mean], axis=1),
    columns=["x_t", "eps", "x_0", "v", "score", "mean"],
)

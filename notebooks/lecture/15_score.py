# %% [markdown]
# ## 15. The network is the score
#
# $$\nabla \log q(x_t \mid x_0) = -\frac{\epsilon}{\sqrt{1-\bar\alpha_t}} \quad\Longrightarrow\quad
# \nabla \log q(x_t) = -\frac{\epsilon_\theta(x_t, t)}{\sqrt{1-\bar\alpha_t}} .$$
#
# Averaging both sides over the possible $x_0$ (step 9) turns the score of one known Gaussian into the score of the density of
# *all* noisy images. The arrows are computed from the denoiser; automatic differentiation of the exact density agrees up to rounding.
#
# [`diffusion/prediction.py`](../ddpm_jax/diffusion/prediction.py): `score`; `test_prediction.py::test_the_best_denoiser_is_the_score_of_the_noisy_density`

# %%
figure, axes = plots.panels(4, width=2.7, height=2.9)
for panel, t in zip(axes, [20, 100, 250, 600]):
    level = schedule.level(t)
    slope = lambda x, level=level: dj.prediction.score(mixture.denoiser(x, level), level)
    plots.density(panel, lambda x, level=level: mixture.log_prob(x, level), extent=2)
    plots.arrows(panel, slope, extent=2)
    by_hand = jax.grad(lambda x: mixture.log_prob(x, level).sum())(points)
    panel.set(title=f"t = {t}")
    print(
        f"t = {t:3}: largest difference from automatic differentiation {float(jnp.max(jnp.abs(slope(points) - by_hand))):.0e}, of {float(jnp.max(jnp.abs(by_hand))):.0f}"
    )
figure

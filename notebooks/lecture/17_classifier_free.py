# %% [markdown]
# ## 17. Guidance without a classifier
#
# A network that is trained with the class and, for some images, without it predicts both $\epsilon(x_t, y)$ and $\epsilon(x_t)$. Their
# difference *is* the gradient of a classifier that nobody had to train:
#
# $$\epsilon = (1 + w)\,\epsilon(x_t, y) - w\,\epsilon(x_t) .$$
#
# The argument `scale` is $w$ in step 16 and $1 + w$ here, so both methods have one convention. With exact denoisers they give the same
# chain, sample by sample.
#
# [`diffusion/guidance.py`](../ddpm_jax/diffusion/guidance.py): `classifier_free`, `hide_labels`; `test_guidance.py::test_both_methods_of_guidance_are_one`

# %%
both = dj.guidance.side_by_side(mixture.components[2].denoiser, mixture.denoiser)
figure, axes = plots.panels(4, width=2.7, height=2.9)
for panel, scale in zip(axes, [0, 1, 2, 4]):
    x = chain(dj.samplers.ddim(), dj.guidance.classifier_free(both, scale), grid, x_T=x_T)
    other = chain(dj.samplers.ddim(), dj.guidance.classifier_guided(mixture.denoiser, log_prob, scale), grid, x_T=x_T)
    print(f"scale {scale}: the two methods end {float(jnp.max(jnp.abs(x - other))):.0e} apart")
    plots.density(panel, mixture.log_prob, extent=2)
    panel.plot(*x.T, ".", markersize=2, color=plots.COLOURS[1])
    panel.set(title=f"scale {scale}, w = {scale - 1}")
figure
